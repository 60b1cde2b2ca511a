"""Where an account's requests go and as whom, by login, region and identity; and addresses of the user's own."""

import pytest

from tests.e2e.kiro_harness import said
from tests.servers.kiro import BUILDER_ARN, SOCIAL_ARN, Login, host_of, parameters, user_of
from tests.servers.kiro_answers import REFUSALS

CHAT = {"model": "claude-sonnet-4.5", "messages": [{"role": "user", "content": "[[say served]]"}]}
IDE_VERSION = "9.9.9"
KEY = "ksk_fake_1234567890"
EU_ARN = "arn:aws:codewhisperer:eu-central-1:123456789012:profile/FAKEPROFILE2"
ORGANISATION = {  # its people log in in one region, its profile and so the API is in another
    "login": Login("idc", profiles=(EU_ARN,), user="d-fake-eu"),
    "oidc_region": "eu-west-1",
    "region": "us-east-1",
    "start_url": "https://fake.awsapps.com/start",
}
ROWS = {  # login -> region of the API, profile on the current host and on the older one, who renews it
    "desktop": ("us-east-1", SOCIAL_ARN, SOCIAL_ARN, "prod.us-east-1.auth.desktop.kiro.dev"),
    "builder": ("us-east-1", BUILDER_ARN, None, "oidc.us-east-1.amazonaws.com"),
    "idc": ("eu-central-1", EU_ARN, EU_ARN, "oidc.eu-west-1.amazonaws.com"),
    "api_key": ("us-east-1", None, None, None),
}
SITES = {"runtime": "kiro.dev", "management": "kiro.dev", "q": "amazonaws.com"}
FORMS = {  # identity -> origin, and for each operation the service that is asked, method and path
    "cli": (
        "KIRO_CLI",
        {"generate": ("", "POST", "/"), "models": ("management", "POST", "/"), "usage": ("management", "POST", "/")},
    ),
    "ide": (
        "AI_EDITOR",
        {
            "generate": ("", "POST", "/generateAssistantResponse"),
            "models": ("management", "GET", "/List-Available-Models"),
            "usage": ("q", "GET", "/getUsageLimits"),
        },
    ),
}


@pytest.fixture(scope="module", params=FORMS)
def somebody(request, start_kiro):
    """Return an identity's name and a proxy that has it."""
    options = [f"kiro_identity={request.param}", f"kiro_ide_version={IDE_VERSION}"]
    return request.param, start_kiro(options=options)


def ask(proxy, url="chat/completions", *, local=True):
    """Ask once, at the local endpoint or through the proxy; return the answer, which is a good one."""
    with proxy.local_client() if local else proxy.client() as client:
        answer = client.post(url, json=CHAT)
    assert answer.status_code == 200, answer.text
    assert said(answer) == "served"
    return answer


def log_in(proxy, kind):
    """Store a new account of that kind and return it."""
    return proxy.add_key(KEY) if kind == "api_key" else proxy.add(kind, **(ORGANISATION if kind == "idc" else {}))


def beside(service, account):
    """Wait for what is asked for *account* beside its requests, and return that: models, usage."""

    def found():  # tests before this one may have more on its way
        seen = {one.operation: one for one in service.requests if one.complete and one.bearer == account.access_token}
        return [seen[name] for name in ("models", "usage") if name in seen]

    service.wait(lambda: len(found()) == 2, "models and usage")
    return found()


def wears(seen, identity, account):
    """Assert that a request carries the fields of one client, and none of the other."""
    agents = f"{seen.header('user-agent')} {seen.header('x-amz-user-agent')}"
    ide = identity == "ide"
    assert agents.count("aws-sdk-js/" if ide else "aws-sdk-rust/") == 2
    assert agents.count(f"KiroIDE-{IDE_VERSION}-{account.machine_id}") == (2 if ide else 0)
    assert (seen.header("x-amz-target") is None) is ide
    assert seen.header("x-amzn-codewhisperer-optout") == ("true" if ide else "false")
    vibe = "vibe" if ide and seen.operation == "generate" else None
    assert seen.header("x-amzn-kiro-agent-mode") == vibe
    assert (seen.header("tokentype") == "API_KEY") is (account.auth_method == "api_key")


@pytest.mark.parametrize("kind", ROWS)
def test_host_profile_and_identity_go_together(kiro_world, somebody, kind):
    """Generation on both hosts, models and usage: region, profile, path, fields and origin are those of the account."""
    identity, proxy = somebody
    region, current, older, _ = ROWS[kind]
    origin, forms = FORMS[identity]
    proxy.accounts(0)
    account = log_in(proxy, kind)
    kiro_world.kiro.queue(REFUSALS["profile_required"].script())  # so that the other place is tried as well
    ask(proxy)
    account = proxy.stored(account)
    seen = [*kiro_world.kiro.of("generate"), *beside(kiro_world.kiro, account)]
    assert [host_of(one) for one in seen[:2]] == ["runtime", "q"]
    assert len(seen) == 4
    for one in seen:
        where, method, path = forms[one.operation]
        host = where or host_of(one)
        assert one.header("host") == f"{host}.{region}.{SITES[host]}"
        assert (one.method, one.target.partition("?")[0]) == (method, path)
        wears(one, identity, account)
        asked = one.json if one.operation == "generate" else parameters(one)
        assert asked.get("profileArn") == (older if host == "q" else current)
        assert (user_of(one) if one.operation == "generate" else asked)["origin"] == origin
    assert not kiro_world.kiro.refusals()


@pytest.mark.parametrize("kind", [kind for kind, row in ROWS.items() if row[3]])
def test_a_login_is_renewed_where_it_was_made(kiro_world, somebody, kind):
    """The login service of the account's own region renews it, asked as the account's identity."""
    identity, proxy = somebody
    proxy.accounts(0)
    account = log_in(proxy, kind)
    kiro_world.aws.families[-1].access.clear()
    before = len(kiro_world.aws.seen)
    ask(proxy)
    (renewal,) = kiro_world.aws.seen[before:]
    assert renewal.header("host") == ROWS[kind][3]
    agent = f"KiroIDE-{IDE_VERSION}-{proxy.stored(account).machine_id}" if identity == "ide" else "Kiro-CLI"
    assert renewal.header("user-agent") == agent


@pytest.mark.parametrize("host", ["runtime.eu-central-1.kiro.dev", "q.eu-central-1.amazonaws.com"])
def test_the_other_regions_names_lead_here_as_well(kiro_world, somebody, host):
    """A chat request to a host of eu-central-1 is served by an account of that region."""
    _, proxy = somebody
    proxy.accounts(0)
    proxy.add("idc", **ORGANISATION, profile_arn=EU_ARN)
    ask(proxy, f"https://{host}/v1/chat/completions", local=False)
    (seen,) = kiro_world.kiro.of("generate")
    assert seen.header("host") == "runtime.eu-central-1.kiro.dev"


def test_addresses_of_the_users_own_take_the_place_of_all_others(kiro_world, start_kiro):
    """With KIRO_…_URL set, generation, lists, usage and renewal go there, by either way in, and nowhere else."""
    proxy = start_kiro(named=False)
    account = proxy.add("idc", **ORGANISATION, profile_arn=EU_ARN)
    since = len(kiro_world.aws.seen)
    ask(proxy)
    family = kiro_world.aws.families[-1]
    seen = [*kiro_world.kiro.of("generate"), *beside(kiro_world.kiro, account)]
    family.access.clear()
    ask(proxy, local=False)
    seen += kiro_world.kiro.of("generate")[1:]
    assert [one.operation for one in seen] == ["generate", "models", "usage", "generate", "generate"]
    assert {one.header("host") for one in seen} == {f"localhost:{kiro_world.kiro_service.port}"}
    (renewal,) = kiro_world.aws.seen[since:]
    assert (renewal.path, renewal.header("host")) == ("/token", f"localhost:{kiro_world.aws_service.port}")
