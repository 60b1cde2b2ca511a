import pytest

from kimi_core.errors import AuthUnavailable
from kimi_core.kiro import identity
from kimi_core.kiro.constants import Endpoints
from kimi_core.kiro.sync import Person
from kimi_core.kiro.whose import Asker, Lent
from tests.kiro.calling import EXPIRED, service

USAGE = {"usageBreakdownList": [{"resourceType": "CREDIT", "usageLimit": 50, "currentUsage": 1}]}


async def asked(*answers):
    """Return what the service's answers say about whose the login is, and the service."""
    fake = service(*answers)
    return await Asker(Endpoints(), lambda account: identity.build("cli"), fake)(fake.account), fake


async def test_whose_a_login_is():
    """User id and e-mail come with the usage."""
    found, _ = await asked(USAGE | {"userInfo": {"userId": "d-fake-user-1", "email": "a@b.example"}})
    assert found == Person("d-fake-user-1", "a@b.example")


@pytest.mark.parametrize("answer", [USAGE, {}, (500, "InternalServerException")])
async def test_nobody_says(answer):
    """A service that does not say, or cannot be asked, is no failure of the import."""
    found, _ = await asked(answer)
    assert found is None


async def test_another_programs_login_is_never_renewed():
    """A token that is refused stays refused: renewing it would spend the other program's login."""
    found, fake = await asked(EXPIRED)
    assert (found, fake.renewed, len(fake.seen)) == (None, [], 1)
    lent = Lent(fake.account)
    assert await lent.renew("a1", "another") is fake.account
    with pytest.raises(AuthUnavailable):
        await lent.renew("a1", "fake-access-1")
