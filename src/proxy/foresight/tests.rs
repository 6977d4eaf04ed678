use super::*;
use crate::config::{EgressSettings, Intercept, ServerTlsSettings};
use crate::domain::{Code, Lift, Pattern, ProjectId, ProjectInfo};
use crate::registry::testing::{binding, certificate, empty};
use crate::registry::{Binding, Target, Unavailable};

fn origin(text: &str) -> Origin {
    Origin::parse(text).unwrap()
}

fn snapshot(bindings: &[(&str, Target)]) -> Snapshot {
    let all: Vec<_> = bindings.iter().map(|(pattern, target)| (*pattern, target.clone(), true)).collect();
    of(ProjectInfo::named("test"), &all)
}

/// Of this project, with pattern, target and `lift` of every binding.
fn of(info: ProjectInfo, bindings: &[(&str, Target, bool)]) -> Snapshot {
    let mut edit = empty(info).edit();
    for (pattern, target, lift) in bindings {
        edit.bind(Binding { lift: *lift, ..binding(pattern, target.clone()) });
    }
    edit.finish()
}

/// All is allowed but `deny`.
fn policy(deny: &[&str]) -> Arc<EgressPolicy> {
    let deny = deny.iter().map(|p| Pattern::parse(p).unwrap()).collect();
    Arc::new(EgressPolicy::new(&EgressSettings { allow: vec![Pattern::Default], deny, ..EgressSettings::default() }))
}

fn listener(name: &str, mode: ListenerMode, caller: CallerSettings, intercept: Intercept) -> ListenerSettings {
    let listen = "127.0.0.1:0".parse().unwrap();
    ListenerSettings { name: name.to_owned(), listen, socket_mode: 0o600, tls: None, mode, caller, intercept }
}

fn forward(intercept: Intercept) -> Outlook {
    let project = CallerSettings::Project(ProjectId::derived("test", None));
    Outlook::new(vec![listener("dev", ListenerMode::Forward, project, intercept)], policy(&[]), None)
}

/// `request: treatment` of every way.
fn ways(outlook: &Outlook, snapshot: &Snapshot, at: &str, http: bool) -> Vec<String> {
    let target = HttpTarget::from_authority(at).unwrap();
    let (origin, plain) = if http { (target.lifted(), Some(&target)) } else { (origin(at), None) };
    outlook.ways(snapshot, &origin, plain).iter().map(|w| format!("{}: {:?}", w.request, w.treatment)).collect()
}

#[test]
fn tells_what_the_table_of_ways_in_says() {
    let bound = || Target::Certificate(certificate("c"));
    let snapshot = snapshot(&[("https://a.test", bound()), ("https://none.test", Target::None), ("*", bound())]);
    let registered = forward(Intercept::Registered);
    assert_eq!(
        ways(&registered, &snapshot, "a.test", false),
        ["CONNECT a.test:443: Intercept", "GET https://a.test/: Tls", "GET http://a.test/: Lift"]
    );
    assert_eq!(ways(&registered, &snapshot, "a.test", true), ["GET http://a.test/: Lift", "CONNECT a.test:80: Lift"]);
    assert_eq!(
        ways(&registered, &snapshot, "b.test:8443", false),
        ["CONNECT b.test:8443: AskFirst", "GET https://b.test:8443/: Tls", "GET http://b.test:8443/: Plain"]
    );
    assert_eq!(
        ways(&registered, &snapshot, "b.test", true),
        ["GET http://b.test/: Plain", "CONNECT b.test:80: Tunnel"]
    );
    assert_eq!(ways(&registered, &snapshot, "none.test", false)[0], "CONNECT none.test:443: Tunnel");
    assert_eq!(ways(&forward(Intercept::Never), &snapshot, "a.test", false)[0], "CONNECT a.test:443: Tunnel");
    assert_eq!(ways(&forward(Intercept::Always), &snapshot, "none.test", false)[0], "CONNECT none.test:443: Tunnel");
    assert_eq!(ways(&forward(Intercept::Always), &snapshot, "b.test", true)[1], "CONNECT b.test:80: Plain");
    // TLS to port 80 of a host that is bound at 443: only the default applies, and plain HTTP would be lifted.
    assert_eq!(ways(&registered, &snapshot, "a.test:80", false)[0], "CONNECT a.test:80: AskFirst");
    assert_eq!(ways(&registered, &snapshot, "a.test:80", false)[2], "GET http://a.test/: Lift");
    let bound = of(ProjectInfo::named("test"), &[("https://a.test", bound(), true)]);
    assert_eq!(ways(&registered, &bound, "a.test:80", false)[0], "CONNECT a.test:80: Tunnel");
}

#[test]
fn tells_only_of_listeners_that_serve_the_project() {
    let own = || CallerSettings::Project(ProjectId::derived("test", None));
    let sidecar = |origin: Option<&str>| ListenerMode::Sidecar(origin.map(|o| Origin::parse(o).unwrap()));
    let registered = Intercept::Registered;
    let outlook = Outlook::new(
        vec![
            listener("its", sidecar(Some("https://a.test")), own(), registered),
            listener("another", sidecar(Some("https://b.test")), own(), registered),
            listener("any", sidecar(None), own(), registered),
            listener("tokens", sidecar(None), CallerSettings::Token, registered),
            listener("foreign", sidecar(None), CallerSettings::Project(ProjectId::derived("x", None)), registered),
        ],
        policy(&[]),
        None,
    );
    let ways = outlook.ways(&snapshot(&[]), &origin("a.test"), None);
    assert_eq!(ways.iter().map(|w| w.listener.as_str()).collect::<Vec<_>>(), ["its", "any", "tokens"]);
    assert!(ways.iter().all(|w| w.treatment == Treatment::Tls));
}

#[test]
fn refuses_what_would_be_refused() {
    let lost = Unavailable { id: crate::domain::CertificateId::parse("c").unwrap(), why: "gone".to_owned() };
    let snapshot =
        snapshot(&[("https://a.test", Target::Unavailable(lost)), ("*", Target::Certificate(certificate("d")))]);
    let outlook = forward(Intercept::Registered);
    let refused = outlook.refuses(&snapshot, &origin("a.test")).unwrap();
    assert_eq!(refused.code, Code::MtlsIdentityUnavailable);
    assert!(refused.fix.unwrap().contains("--origin 'https://a.test'"));
    assert_eq!(outlook.refuses(&snapshot, &origin("b.test")), None);
    assert_eq!(outlook.remembers(&snapshot, &origin("b.test")), None, "nothing runs, nothing is remembered");
}

#[test]
fn lifts_as_project_and_binding_say() {
    let bound = || Target::Certificate(certificate("c"));
    let bindings = [
        ("https://a.test", bound(), true),
        ("https://no.test", bound(), false),
        ("https://none.test", Target::None, true),
        ("*", bound(), true),
    ];
    let outlook = forward(Intercept::Registered);
    for (lift, host, absolute, tunnel, why) in [
        (Lift::Registered, "a.test", "Lift", "Lift", "https://a.test is bound"),
        (Lift::Registered, "no.test", "Plain", "Tunnel", "the binding of https://no.test says lift = false"),
        (Lift::Registered, "none.test", "Plain", "Tunnel", "nothing is presented to https://none.test"),
        (Lift::Registered, "other.test", "Plain", "Tunnel", "no exact or wildcard binding"),
        (Lift::Always, "a.test", "Lift", "Lift", "https://a.test is bound"),
        (Lift::Always, "no.test", "Plain", "Tunnel", "the binding of https://no.test says lift = false"),
        (Lift::Always, "none.test", "Plain", "Tunnel", "nothing is presented to https://none.test"),
        (Lift::Always, "other.test", "Lift", "Lift", "the project says lift = \"always\""),
        (Lift::Never, "a.test", "Plain", "Tunnel", "the project says lift = \"never\""),
        (Lift::Never, "other.test", "Plain", "Tunnel", "the project says lift = \"never\""),
    ] {
        let snapshot = of(ProjectInfo { lift, ..ProjectInfo::named("test") }, &bindings);
        assert_eq!(
            ways(&outlook, &snapshot, host, true),
            [format!("GET http://{host}/: {absolute}"), format!("CONNECT {host}:80: {tunnel}")],
            "{lift:?}"
        );
        let told = outlook.ways(&snapshot, &origin(host), None);
        assert_eq!(told[2].request, format!("GET http://{host}/"));
        assert!(format!("{:?}", told[2].treatment) == absolute && told[2].why.contains(why), "{lift:?} {told:?}");
    }
    // With "always" and nothing bound, a tunnel of TLS is as blind as ever.
    let nothing = of(ProjectInfo { lift: Lift::Always, ..ProjectInfo::named("test") }, &[]);
    assert_eq!(ways(&outlook, &nothing, "a.test", false)[0], "CONNECT a.test:443: Tunnel");
    assert_eq!(ways(&outlook, &nothing, "a.test:8080", true)[1], "CONNECT a.test:8080: Lift");
    // What the project-wide binding says counts where it is that one which applies.
    let declined = of(ProjectInfo { lift: Lift::Always, ..ProjectInfo::named("test") }, &[("*", bound(), false)]);
    let told = outlook.ways(&declined, &origin("b.test"), None);
    assert_eq!((told[2].treatment, told[2].why.as_str()), (Treatment::Plain, "the binding of * says lift = false"));
}

/// However clients reach a listener and prove who they are: what becomes of a request is the same.
#[test]
fn tells_of_tls_listeners_unix_sockets_and_callers_with_certificates() {
    let own = || CallerSettings::Project(ProjectId::derived("test", None));
    let files = ServerTlsSettings {
        key_path: "listeners[0].tls".to_owned(),
        line: None,
        cert: "own.crt".into(),
        key: "own.key".into(),
        client_ca: Some("ca.crt".into()),
        client_required: true,
    };
    let with = |name: &str, mode: ListenerMode, caller, tls: bool, unix: bool| ListenerSettings {
        listen: if unix { "unix:/run/egret.sock" } else { "127.0.0.1:0" }.parse().unwrap(),
        tls: tls.then(|| files.clone()),
        ..listener(name, mode, caller, Intercept::Registered)
    };
    let foreign = CallerSettings::Project(ProjectId::derived("x", None));
    let outlook = Outlook::new(
        vec![
            with("tls", ListenerMode::Forward, own(), true, false),
            with("socket", ListenerMode::Forward, own(), false, true),
            with("mtls", ListenerMode::Forward, CallerSettings::Certificate, true, false),
            with("side", ListenerMode::Sidecar(None), CallerSettings::Certificate, true, false),
            with("side-socket", ListenerMode::Sidecar(Some(origin("a.test"))), own(), false, true),
            with("foreign", ListenerMode::Forward, foreign, true, true),
        ],
        policy(&[]),
        None,
    );
    let snapshot = snapshot(&[("https://a.test", Target::Certificate(certificate("c")))]);
    let told: Vec<String> = outlook
        .ways(&snapshot, &origin("a.test"), None)
        .iter()
        .map(|way| format!("{} {}: {:?}", way.listener, way.request, way.treatment))
        .collect();
    let forward = |name: &str| {
        ["CONNECT a.test:443: Intercept", "GET https://a.test/: Tls", "GET http://a.test/: Lift"]
            .map(|way| format!("{name} {way}"))
    };
    let mut expected: Vec<String> = ["tls", "socket", "mtls"].into_iter().flat_map(forward).collect();
    expected.push("side GET / with Host: a.test: Tls".to_owned());
    expected.push("side-socket GET / (whatever the Host): Tls".to_owned());
    assert_eq!(told, expected);
}

#[test]
fn judges_every_way_by_its_own_port() {
    let own = || CallerSettings::Project(ProjectId::derived("test", None));
    let listeners = vec![
        listener("dev", ListenerMode::Forward, own(), Intercept::Registered),
        listener("side", ListenerMode::Sidecar(None), own(), Intercept::Registered),
    ];
    let snapshot = snapshot(&[("https://a.test", Target::Certificate(certificate("c")))]);
    let outlook = |deny: &[&str]| Outlook::new(listeners.clone(), policy(deny), None);
    // A tunnel to port 80 is judged as that, though plain HTTP in it would go to 443.
    assert_eq!(
        ways(&outlook(&["https://a.test:80"]), &snapshot, "a.test", true),
        ["GET http://a.test/: Lift", "CONNECT a.test:80: Refuse", "GET / with Host: a.test: Tls"]
    );
    let told = outlook(&["https://a.test"]).ways(&snapshot, &origin("a.test"), None);
    assert!(told.iter().all(|way| way.treatment == Treatment::Refuse && way.why.contains("deny")), "{told:?}");
    assert_eq!(told.len(), 4);
    assert_eq!(ways(&outlook(&["https://b.test:80"]), &snapshot, "b.test", false)[2], "GET http://b.test/: Refuse");
}
