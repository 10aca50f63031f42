import hypothesis

# No deadline: how long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("resight", deadline=None, print_blob=True)
hypothesis.settings.load_profile("resight")
