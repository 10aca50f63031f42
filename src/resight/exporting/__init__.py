"""A trained model in a format that needs no Resight to run, compared with the model it is from."""
