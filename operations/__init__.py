"""The work of an operator, as plain functions that give findings; cli and api show them."""
