"""Recipes: what is done to a graph as a whole so that int8 loses less."""
