"""Plugins for other serving systems; each is loaded by that system only."""
