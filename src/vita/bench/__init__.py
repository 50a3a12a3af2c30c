"""How near each stage comes to what the machine can do."""
