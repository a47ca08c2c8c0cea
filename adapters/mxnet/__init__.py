"""MXNet's symbols and Gluon blocks."""
