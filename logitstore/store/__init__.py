"""The store: objects in a folder, committed unit by unit, sealed, read and verified."""
