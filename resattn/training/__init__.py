"""Training one network, and what it writes down."""
