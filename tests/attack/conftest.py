from conftest_service import serve  # noqa: F401 - a fixture
