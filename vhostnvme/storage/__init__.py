"""What a namespace's bytes stand on: the SPECs that users write."""
