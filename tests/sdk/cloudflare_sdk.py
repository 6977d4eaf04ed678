"""Runs the life cycle of Cloudflare's three certificate stores with the real `cloudflare` package against egret, and
sees at an origin, after each step, which client certificate egret presents.

    python3 cloudflare_sdk.py FOLDER

FOLDER holds world.json and certificates; tests/it/cloudflare_sdks_drive_the_api.rs makes it, and says there what is in
it. Prints one JSON line per check: {"ok", "what", …}. Exits 0 only if every check held, 1 if one did not, 2 if it was
called wrongly.
"""

import json
import re
import sys
import threading
import time
import urllib.parse
import urllib.request
from datetime import datetime, timedelta, timezone
from pathlib import Path

import cloudflare
from cloudflare import AuthenticationError, BadRequestError, Cloudflare, NotFoundError, PermissionDeniedError

from witness import Pair, Report, Witness, ask

if len(sys.argv) != 2:
    print("usage: python3 cloudflare_sdk.py FOLDER", file=sys.stderr)
    sys.exit(2)

FOLDER = Path(sys.argv[1])
WORLD = json.loads((FOLDER / "world.json").read_text())
APP, WWW, PRIVATE = (WORLD["hosts"][name] for name in ("app", "www", "private"))
SHOP, BILLING = WORLD["proxies"]["shop"], WORLD["proxies"]["billing"]
ZONE = {"zone_id": WORLD["zones"]["shop"]}
ACCOUNT = {"account_id": WORLD["account"]}
NOBODY = "0123456789abcdef0123456789abcdef"
# Codes of cases for which Cloudflare's are not public.
IN_USE, INVALID, HOSTNAME, DENIED, ROUTE = 1433, 10400, 10400, 10000, 7003

witness = Witness(WORLD["url"])
report = Report(witness)
check, refused = report.check, report.refused


def client(**credentials):
    return Cloudflare(base_url=f"{witness.url}/client/v4", **credentials)


admin = client(api_token=WORLD["admin"])
operator = client(api_token=WORLD["operator"]["token"])
by_key = client(api_key=WORLD["operator"]["token"], api_email=WORLD["operator"]["email"])
zones, settings = operator.origin_tls_client_auth.zone_certificates, operator.origin_tls_client_auth.settings
mtls = operator.mtls_certificates


def of(name):
    return Pair(FOLDER, name)


def same(wanted):
    return lambda got: "" if got == wanted else f"{got}, not {wanted}"


def lists(*wanted):
    return lambda got: same(sorted(wanted))(sorted(one.id for one in got))


def presents(what, subject, host=APP, proxy=SHOP):
    """What the origin called `host` sees now; `subject` "" is no certificate at all."""
    check(f"{what}: {host} sees {subject or 'no certificate'}", lambda: ask(proxy, host, WORLD["port"]),
          lambda seen: same((200, subject))((seen["status"], seen["subject"])))


def own(method, path, body=None):
    """A call of egret's own, or of Vercel's dialect."""
    headers = {"Authorization": f"Bearer {WORLD['operator']['token']}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(WORLD["url"] + path, data, headers, method=method)) as answer:
        return json.load(answer)


def bind(project, origin, certificate):
    return own("PUT", f"/v1/projects/{project}/bindings", {"origin": origin, "certId": certificate})


def unbind(project, origin):
    return own("DELETE", f"/v1/projects/{project}/bindings?origin={urllib.parse.quote(origin, safe='')}")


def is_object(pair, pem="certificate", **more):
    """A certificate's object as it has to be: its id, the PEM as it was sent, dates as dates, what openssl reads."""
    wanted = {pem: pair.certificate, "signature": "ECDSAWithSHA256", **pair.described(), **more}

    def wrong(got):
        if not re.fullmatch("[0-9a-f]{32}", got.id):
            return "not an id of 32 hex digits"
        if not isinstance(got.uploaded_on, datetime) or got.uploaded_on.tzinfo is None:
            return f"uploaded {got.uploaded_on!r}"
        if abs(datetime.now(timezone.utc) - got.uploaded_on) > timedelta(minutes=1):
            return f"uploaded {got.uploaded_on!r}"
        found = {name: getattr(got, name) for name in wanted}
        return same(wanted)(found)

    return wrong


def deleted(id):
    """What a delete answers; with nothing in flight the certificate is gone soon."""
    return lambda got: "" if got.id == id and got.status in ("deleted", "pending_deletion") else "not that, deleted"


def gone(what, call, code):
    """Waits, while the last connections under a deleted certificate end, until the call says "not found"."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            found = call()
        except NotFoundError as error:
            return report.say(what, same(code)(error.errors[0].code))
        if found.status != "pending_deletion":
            return report.say(what, f"status {found.status}")
        time.sleep(0.02)
    return report.say(what, "it is still there after ten seconds")


def where_scripts_begin():
    check("a token is verified", operator.user.tokens.verify, lambda got: same("active")(got.status))
    check("a key with its e-mail address is a token", by_key.user.tokens.verify, lambda got: same("active")(got.status))
    wrong = {
        "an unknown token": {"api_token": "not-a-token-of-this-egret"},
        "another's e-mail address": {"api_key": WORLD["operator"]["token"], "api_email": "somebody@else.test"},
    }
    for what, credentials in wrong.items():
        refused(what, client(**credentials).user.tokens.verify, AuthenticationError, 10000)
    check("the accounts of a limited token are its own", lambda: list(operator.accounts.list()),
          lambda got: lists(WORLD["account"])(got) or same([str])([type(one.name) for one in got]))
    check("a token without limits sees all", lambda: list(admin.accounts.list()),
          lists(WORLD["account"], WORLD["otherAccount"]))
    check("zones are found by name", lambda: list(operator.zones.list(name="shop")),
          lambda got: lists(WORLD["zones"]["shop"])(got) or same(WORLD["account"])(got[0].account.id))
    check("a zone is there by id", lambda: operator.zones.get(**ZONE),
          lambda got: same((WORLD["zones"]["shop"], "shop", "active"))((got.id, got.name, got.status)))


def zone_store():
    one, two, three, theirs = of("zone-1"), of("zone-2"), of("zone-3"), of("vercel-1")
    old = operator.origin_tls_client_auth
    check("a zone begins without certificates", lambda: list(zones.list(**ZONE)), same([]))
    check("a zone begins switched off", lambda: settings.get(**ZONE).enabled, same(False))
    first = check("a zone certificate is created", lambda: zones.create(**ZONE, **one.material),
                  is_object(one, status="active", enabled=False))
    presents("a zone that is off presents nothing", "")
    check("the zone is switched on", lambda: settings.update(**ZONE, enabled=True).enabled, same(True))
    presents("the zone is on", one.subject)
    presents("for every host", one.subject, WWW)
    check("it is read back", lambda: zones.get(first.id, **ZONE), is_object(one, id=first.id, enabled=True))
    second = check("a second by the calls of old", lambda: old.create(**ZONE, **two.material),
                   is_object(two, status="active"))
    presents("the most recent one is used", two.subject)
    check("both are listed", lambda: list(zones.list(**ZONE)), lists(first.id, second.id))
    check("and by the calls of old", lambda: list(old.list(**ZONE)), lists(first.id, second.id))
    refused("the same certificate again", lambda: zones.create(**ZONE, **one.material), BadRequestError, 1406, first.id)
    check("the newest is deleted", lambda: old.delete(second.id, **ZONE), deleted(second.id))
    presents("the next newest takes over", one.subject)
    gone("a deleted zone certificate", lambda: old.get(second.id, **ZONE), 1552)
    check("the zone is switched off", lambda: settings.update(**ZONE, enabled=False).enabled, same(False))
    presents("the zone is off", "")
    check("the zone is switched on again", lambda: settings.update(**ZONE, enabled=True).enabled, same(True))

    upload = {"cert": theirs.certificate, "key": theirs.key, "ca": (FOLDER / "partner.crt").read_text()}
    path = "/v1/projects/shop/client-cert"
    other = check("a project-wide upload of Vercel's dialect", lambda: own("POST", path, upload)["certId"])
    presents("the later upload wins", theirs.subject)
    check("the zone lists it", lambda: list(zones.list(**ZONE)), lists(first.id, other.removeprefix("cert_")))
    third = check("a zone certificate after it", lambda: zones.create(**ZONE, **three.material))
    presents("the later upload wins the other way round", three.subject)
    check("the newest is deleted again", lambda: zones.delete(third.id, **ZONE), deleted(third.id))
    presents("Vercel's is next", theirs.subject)
    check("Vercel's is deleted there", lambda: own("DELETE", f"{path}/{other}"))
    presents("the zone's is left", one.subject)
    return first.id


def hostname_store(zone_id):
    one, two, from_zone = of("host-1"), of("host-2"), of("zone-1").subject
    # By key and e-mail address, as many scripts do.
    certificates = by_key.origin_tls_client_auth.hostname_certificates
    hostnames = by_key.origin_tls_client_auth.hostnames

    def put(*config):
        return list(hostnames.update(**ZONE, config=[dict(zip(("hostname", "cert_id", "enabled"), one)) for one in config]))

    check("no hostname certificates yet", lambda: list(certificates.list(**ZONE)), same([]))
    refused("a hostname without association", lambda: hostnames.get(APP, **ZONE), NotFoundError, 1553)
    first = check("a hostname certificate is created", lambda: certificates.create(**ZONE, **one.material),
                  is_object(one, status="active"))
    second = check("and another", lambda: certificates.create(**ZONE, **two.material), is_object(two, status="active"))
    presents("a certificate that no hostname has", from_zone)
    check("it is read back", lambda: certificates.get(first.id, **ZONE), is_object(one, id=first.id))
    check("both are listed", lambda: list(certificates.list(**ZONE)), lists(first.id, second.id))
    check("a hostname is associated", lambda: put((APP.upper(), first.id, True))[0],
          lambda got: same((APP, first.id, True, "active", "active"))(
              (got.hostname, got.cert_id, got.enabled, got.status, got.cert_status)))
    presents("hostname over zone", one.subject)
    presents("other hostnames are as before", from_zone, WWW)
    dates = ("created_at", "updated_at", "cert_uploaded_on", "cert_updated_at", "expires_on")
    check("the association is read back", lambda: hostnames.get(APP, **ZONE), lambda got: same((one.certificate, set()))(
        (got.certificate, {name for name in dates if not isinstance(getattr(got, name), datetime)})))
    settings.update(**ZONE, enabled=False)
    presents("a zone that is off takes nothing from a hostname", one.subject)
    settings.update(**ZONE, enabled=True)
    refused("a delete while it is associated", lambda: certificates.delete(first.id, **ZONE), BadRequestError, 1433)
    presents("a refused delete changed nothing", one.subject)
    check("an association is disabled", lambda: put((APP, first.id, False))[0].enabled, same(False))
    presents("false sends none, zone or not", "")
    refused("a delete while it is disabled", lambda: certificates.delete(first.id, **ZONE), BadRequestError, 1433)
    check("repinned, what was asked for stands first", lambda: put((WWW, second.id, True), (APP, second.id, True)),
          lambda got: same([(WWW, second.id), (APP, second.id)])([(one.hostname, one.cert_id) for one in got]))
    presents("repinned", two.subject)
    check("a repinned certificate can be deleted at once", lambda: certificates.delete(first.id, **ZONE),
          deleted(first.id))
    gone("a deleted hostname certificate", lambda: certificates.get(first.id, **ZONE), 1551)
    refused("it cannot be associated", lambda: put((APP, first.id, True)), BadRequestError, 1415)
    refused("a zone certificate cannot either", lambda: put((APP, zone_id, True)), BadRequestError, 1415, "zone",
            "/config/0/cert_id")
    refused("nor a wildcard be", lambda: put((WWW, second.id, False), ("*.shop.test", second.id, True)), BadRequestError,
            HOSTNAME, pointer="/config/1/hostname")
    presents("refusals changed nothing", two.subject)
    presents("not to the good entry either", two.subject, WWW)
    check("voided with the id and without", lambda: put((APP, second.id, None)) and
          list(hostnames.update(**ZONE, config=[{"hostname": WWW, "enabled": None}])))
    presents("voided falls back to the zone", from_zone)
    refused("a voided hostname", lambda: hostnames.get(APP, **ZONE), NotFoundError, 1553)
    check("the seed's own call", lambda: certificates.delete(second.id, **ZONE), deleted(second.id))
    check("the store is empty again", lambda: list(certificates.list(**ZONE)), same([]))


def repinned_under_load():
    """Requests all the while that a hostname goes from one certificate to the other and back."""
    certificates = operator.origin_tls_client_auth.hostname_certificates
    pairs = [of("host-1"), of("host-2")]
    ids = [certificates.create(**ZONE, **pair.material).id for pair in pairs]
    subjects = [pair.subject for pair in pairs]

    def put(which, enabled=True):
        config = [{"hostname": APP, "cert_id": ids[which], "enabled": enabled}]
        list(operator.origin_tls_client_auth.hostnames.update(**ZONE, config=config))

    put(0)
    state = {"begun": 0, "answered": 0, "ended": False}
    faults, served = [], [0, 0]

    def work():
        least = 0
        while not state["ended"] and not faults:
            least = max(least, state["answered"])
            seen = ask(SHOP, APP, WORLD["port"])
            most = state["begun"]
            # The youngest round that this answer may belong to.
            fits = [at for at in range(least, most + 1) if subjects[at % 2] == seen["subject"]]
            if seen["status"] != 200 or not fits:
                faults.append(f"rounds {least} to {most}: {seen}")
                return
            served[fits[-1] % 2] += 1
            # What a worker has seen, it never sees undone.
            if most - least <= 1:
                least = fits[-1]

    workers = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for worker in workers:
        worker.start()
    end = time.monotonic() + 20
    for begun in range(1, 11):
        goal = sum(served) + 8
        state["begun"] = begun
        put(begun % 2)
        state["answered"] = begun
        while sum(served) < goal and not faults and time.monotonic() < end:
            time.sleep(0.001)
    state["ended"] = True
    for worker in workers:
        worker.join(10)
    few = "" if min(served) >= 20 else f"too few requests: {served}"
    report.say("repinned ten times under load, and no request failed or saw the old certificate after the answer",
               faults[0] if faults else few)
    put(0, None)
    for id in ids:
        check("cleared away", lambda: certificates.delete(id, **ZONE), deleted(id))


def account_store():
    leaf, bundle, from_zone = of("account-1"), (FOLDER / "private-ca.crt").read_text(), of("zone-1").subject
    material = {**ACCOUNT, "ca": False, "certificates": leaf.certificate, "private_key": leaf.key, "name": "payments"}
    check("an account begins without certificates", lambda: list(mtls.list(**ACCOUNT)), same([]))
    one = check("a leaf is created", lambda: mtls.create(**material),
                is_object(leaf, "certificates", ca=False, name="payments"))
    ca = check("a bundle of authorities is created", lambda: mtls.create(**ACCOUNT, ca=True, certificates=bundle),
               lambda got: same((True, bundle, True))((got.ca, got.certificates, isinstance(got.updated_at, datetime))))
    check("both are listed", lambda: list(mtls.list(**ACCOUNT, type=["custom", "access_managed"])), lists(one.id, ca.id))
    check("none is another's", lambda: list(mtls.list(**ACCOUNT, type=["gateway_managed"])), same([]))
    check("the leaf is read back", lambda: mtls.get(one.id, **ACCOUNT), is_object(leaf, "certificates", type="custom"))
    check("nothing uses it", lambda: list(mtls.associations.get(one.id, **ACCOUNT)), same([]))
    refused("the same certificate again", lambda: mtls.create(**material), BadRequestError, 1471, one.id)
    check("it is bound in one project", lambda: bind("shop", f"https://{APP}:*", one.id))
    check("and in another", lambda: bind("billing", f"https://{APP}:*", one.id))
    presents("bound", leaf.subject)
    presents("bound in the other project", leaf.subject, APP, BILLING)
    presents("other hosts are as before", from_zone, WWW)
    check("both bindings are associations", lambda: list(mtls.associations.get(one.id, **ACCOUNT)),
          lambda got: same([("egress", "active")] * 2)([(it.service, it.status) for it in got]))
    in_use = "Certificate cannot be deleted while in use."
    refused("a delete while it is in use", lambda: mtls.delete(one.id, **ACCOUNT), BadRequestError, IN_USE, in_use)
    presents("a refused delete changed nothing", leaf.subject)
    check("it is unbound in one project", lambda: unbind("billing", f"https://{APP}:*"))
    presents("the other project has no certificate", "", APP, BILLING)
    refused("a delete while one is left", lambda: mtls.delete(one.id, **ACCOUNT), BadRequestError, IN_USE, in_use)
    check("it is unbound in the other", lambda: unbind("shop", f"https://{APP}:*"))
    check("the seed's own call", lambda: mtls.delete(one.id, **ACCOUNT), lambda got: same(one.id)(got.id))
    presents("the zone's is left", from_zone)
    gone("a deleted account certificate", lambda: mtls.get(one.id, **ACCOUNT), 1472)

    def reach(what, *wanted):
        check(what, lambda: ask(SHOP, PRIVATE, WORLD["port"]), lambda seen: same(wanted)((seen["status"], seen["code"])))

    reach("a server of a private authority is not trusted", 502, "trust.unknown_issuer")
    check("the bundle is bound", lambda: bind("shop", f"https://{PRIVATE}:*", ca.id))
    reach("its servers are trusted where it is bound", 200, None)
    refused("a bundle in use", lambda: mtls.delete(ca.id, **ACCOUNT), BadRequestError, IN_USE, in_use)
    check("it is unbound", lambda: unbind("shop", f"https://{PRIVATE}:*"))
    check("and deleted", lambda: mtls.delete(ca.id, **ACCOUNT), lambda got: same(ca.id)(got.id))
    reach("its servers are not trusted any more", 502, "trust.unknown_issuer")


def typed_refusals():
    leaf, other, root = of("limit-0"), of("limit-1"), of("root")
    hostname = operator.origin_tls_client_auth.hostname_certificates
    mixed = {"certificate": leaf.certificate + leaf.key, "private_key": leaf.key}
    for store, create in (("zone", zones.create), ("hostname", hostname.create)):
        for what, body, code in (
            ("a root in place of a leaf", root.material, 2101),
            ("a key in place of the certificate", {"certificate": leaf.key, "private_key": leaf.key}, 1408),
            ("certificate and key in one field", mixed, 1408),
            ("the key of another", {**leaf.material, "private_key": other.key}, 2200),
        ):
            refused(f"{store}: {what}", lambda: create(**ZONE, **body), BadRequestError, code)
    refused("account: a leaf in place of an authority",
            lambda: mtls.create(**ACCOUNT, ca=True, certificates=leaf.certificate), BadRequestError, 1411)
    refused("account: a leaf without its key",
            lambda: mtls.create(**ACCOUNT, ca=False, certificates=leaf.certificate), BadRequestError, INVALID)
    theirs = {"zone_id": WORLD["zones"]["other"]}
    refused("another tenant's zone", lambda: zones.list(**theirs), PermissionDeniedError, DENIED)
    refused("another tenant's hostnames", lambda: hostname.delete(NOBODY, **theirs), PermissionDeniedError, DENIED)
    refused("another tenant's account", lambda: mtls.delete(NOBODY, account_id=WORLD["otherAccount"]),
            PermissionDeniedError, DENIED)
    nobody = admin.origin_tls_client_auth.zone_certificates
    refused("an unknown zone", lambda: nobody.list(zone_id=NOBODY), NotFoundError, ROUTE)
    refused("an unknown account", lambda: admin.mtls_certificates.list(account_id=NOBODY), NotFoundError, ROUTE)


def lost_answers():
    it = of("limit-0")
    hostname = operator.origin_tls_client_auth.hostname_certificates
    leaf = {**ACCOUNT, "ca": False, "certificates": it.certificate, "private_key": it.key}
    for store, listed, create, remove, lost in (
        ("zone", lambda: zones.list(**ZONE), lambda: zones.create(**ZONE, **it.material),
         lambda id: zones.delete(id, **ZONE), ["502"]),
        ("hostname", lambda: hostname.list(**ZONE), lambda: hostname.create(**ZONE, **it.material),
         lambda id: hostname.delete(id, **ZONE), ["reset", "502"]),
        ("account", lambda: mtls.list(**ACCOUNT), lambda: mtls.create(**leaf), lambda id: mtls.delete(id, **ACCOUNT),
         ["reset"]),
    ):
        before, start = [one.id for one in listed()], len(witness.requests)
        witness.lost.extend(lost)
        made = check(f"{store}: a create whose answer is lost gives what is stored", create)
        sent = witness.requests[start:]
        report.say(f"{store}: the SDK sent it again, and got the object of the first", same(
            [("POST", 200, at, made.id) for at in range(len(lost) + 1)])(
            [(one["method"], one["status"], one["retry"], json.loads(one["body"])["result"]["id"]) for one in sent]))
        check(f"{store}: it is there once", lambda: sorted(one.id for one in listed()), same(sorted([*before, made.id])))
        check("cleared away", lambda: remove(made.id))


where_scripts_begin()
first = zone_store()
hostname_store(first)
repinned_under_load()
account_store()
typed_refusals()
lost_answers()
presents("after all of it the zone's certificate is in force", of("zone-1").subject)
check("the last is deleted", lambda: zones.delete(first, **ZONE), deleted(first))
presents("nothing is left", "")
report.say("every answer had the envelope, and none a key", witness.faults[0] if witness.faults else "")
report.say("the SDK is the release that was asked for", same(("5.9.0", {"Cloudflare/Python 5.9.0"}))(
    (cloudflare.__version__, {one["agent"] for one in witness.requests})))
sys.exit(1 if report.wrong else 0)
