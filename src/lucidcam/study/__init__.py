"""A study with people: which explanation shows the class, which model can be relied on."""
