"""What a card's managers have decided is carried out here: on SSDs, the target and devices."""
