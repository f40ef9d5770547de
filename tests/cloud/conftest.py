"""What the tests of the cloud share: the model that ships, and one domain of text."""

import pytest

from cloud.model.base_model import BaseModel, open_base_model
from cloud.text.sources import Domain, default_domain
from hil.settings import DefaultText


@pytest.fixture(scope="session")
def base() -> BaseModel:
    return open_base_model("default")


@pytest.fixture(scope="session")
def domain() -> Domain:
    text = DefaultText(train_examples=400, score_examples=40)
    return default_domain("jargon40", text, seed=0)
