"""How fast and how good the parts are."""
