"""What an operator does: plain functions that give findings; cli and api show them."""
