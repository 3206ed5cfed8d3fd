"""Personas: JSON descriptions of drives that an emulated one can look like.

`file.py` reads one, `honour.py` says what of it we cannot be. The two that are shipped lie here as
`*.json`; the drives that they describe are invented.
"""

from vhostnvme.personas.file import Persona, load_persona, shipped
from vhostnvme.personas.honour import check_persona, problems

__all__ = ["Persona", "check_persona", "load_persona", "problems", "shipped"]
