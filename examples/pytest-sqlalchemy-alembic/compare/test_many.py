from tests.test_many import *  # noqa: F403
