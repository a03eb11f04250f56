"""What a finished timeline means; reads arrays, never runs anything."""
