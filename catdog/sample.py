def draw_sample(directory, *, seed=0):
    raise NotImplementedError
