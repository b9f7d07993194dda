"""A member as small as it can be, for the tests of the command line, callbacks and resume."""
