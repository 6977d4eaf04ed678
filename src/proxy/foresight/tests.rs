use super::*;
use crate::config::Intercept;
use crate::domain::{Code, ProjectId, ProjectInfo};
use crate::registry::testing::{binding, certificate, empty};
use crate::registry::{Target, Unavailable};

fn origin(text: &str) -> Origin {
    Origin::parse(text).unwrap()
}

fn snapshot(bindings: &[(&str, Target)]) -> Snapshot {
    let mut edit = empty(ProjectInfo::named("test")).edit();
    for (pattern, target) in bindings {
        edit.bind(binding(pattern, target.clone()));
    }
    edit.finish()
}

fn listener(name: &str, mode: ListenerMode, caller: CallerSettings, intercept: Intercept) -> ListenerSettings {
    let listen = "127.0.0.1:0".parse().unwrap();
    ListenerSettings { name: name.to_owned(), listen, socket_mode: 0o600, tls: None, mode, caller, intercept }
}

fn forward(intercept: Intercept) -> Outlook {
    let project = CallerSettings::Project(ProjectId::derived("test", None));
    Outlook::new(vec![listener("dev", ListenerMode::Forward, project, intercept)], None)
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
    // TLS to port 80 of a host that is bound at 443.
    assert_eq!(ways(&registered, &snapshot, "a.test:80", false)[0], "CONNECT a.test:80: Tunnel");
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
    assert!(outlook.lifts(&snapshot, &origin("a.test")) && !outlook.lifts(&snapshot, &origin("b.test")));
}
