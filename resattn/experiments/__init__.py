"""What is run: notebooks, controls and the search for hyperparameters."""
