"""Prices of the iterations of a serving engine, as tables that its replica looks up."""
