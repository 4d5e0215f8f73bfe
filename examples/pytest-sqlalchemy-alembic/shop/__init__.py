"""A shop that keeps its customers and orders with SQLAlchemy."""
