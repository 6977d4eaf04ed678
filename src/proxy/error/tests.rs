use super::*;
use crate::domain::{CertificateInfo, Fingerprint, Holder, KeyKind, Rule, Source};
use crate::identity::Asked;

fn rich() -> Failure {
    let mut failure = Failure::new(Code::MtlsRejectedUnknownCa, "the origin said \"unknown_ca\" \\ für X\r\nx: y")
        .fix("egret certs bind https://api.test cert_1");
    failure.retry_safe = false;
    let at = time::OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
    *failure.facts = Facts {
        origin: Some("https://api.test:8443".into()),
        address: Some("192.0.2.7:8443".parse().unwrap()),
        parent: Some("http://proxy.test:3128".into()),
        tls_version: Some("TLSv1.3"),
        asked: Some(Asked {
            signed: true,
            // O=Acme\, Inc.
            cas: vec![b"\x30\x15\x31\x13\x30\x11\x06\x03\x55\x04\x0a\x0c\x0aAcme, Inc.".to_vec(), b"\x30\x99".to_vec()],
            ca_count: 90,
            presented: Presented::Sent,
        }),
        rule: Some(Rule::Exact),
        identity: Some(std::sync::Arc::new(CertificateInfo {
            id: CertificateId::parse("cert_1").unwrap(),
            subject: "CN=client".into(),
            issuer: "CN=ca".into(),
            serial_number: "01".into(),
            signature: "ECDSAWithSHA256",
            not_before: at,
            not_after: at,
            fingerprint: Fingerprint([0xab; 32]),
            spki_fingerprint: Fingerprint([0xcd; 32]),
            key: KeyKind::P256,
            chain_length: 1,
            uploaded_at: at,
            warnings: Vec::new(),
            skip_validation: false,
            source: Source::Api,
            holder: Holder::Project,
        })),
        unknown_issuers: Vec::new(),
        tls13_only: false,
        alert: Some(48),
        request_sent: true,
    };
    failure
}

fn body(failure: &Failure, trusted: bool) -> Value {
    serde_json::from_slice(&problem(failure.code.status(), failure, trusted, "r-1")).unwrap()
}

#[test]
fn gives_trusted_callers_the_facts() {
    let got = body(&rich(), true);
    assert_eq!(got["code"], "mtls.rejected_unknown_ca");
    assert_eq!(got["status"], 502);
    assert_eq!(got["request_id"], "r-1");
    assert_eq!(got["origin"], "https://api.test:8443");
    assert_eq!(got["sni"], "api.test");
    assert_eq!(got["address"], "192.0.2.7:8443");
    assert_eq!(got["tls_version"], "TLSv1.3");
    assert_eq!(got["certificate_requested"], true);
    assert_eq!(got["acceptable_cas"], json!({ "names": ["O=Acme\\, Inc.", "(unreadable name)"], "total": 90 }));
    assert_eq!(got["identity"]["id"], "cert_1");
    assert_eq!(got["identity"]["rule"], "exact");
    assert_eq!(got["identity"]["not_after"], "2027-01-15T08:00:00Z");
    assert_eq!(got["identity"]["presented"], "sent");
    assert_eq!(got["alert"], 48);
    assert_eq!(got["request_sent"], true);
    assert_eq!(got["retry_safe"], false);
    assert_eq!(got["fix"], "egret certs bind https://api.test cert_1");
}

#[test]
fn gives_others_code_and_request_id_only() {
    let got = body(&rich(), false);
    let keys: Vec<_> = got.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["code", "request_id", "status", "title", "type"]);
    let header = answer(&rich(), false, false, "r").headers()[PROXY_STATUS].to_str().unwrap().to_owned();
    assert_eq!(header, "egret; error=tls_alert_received; details=\"mtls.rejected_unknown_ca\"");
}

#[test]
fn escapes_what_a_structured_string_cannot_hold() {
    let response = answer(&rich(), true, false, "r");
    assert_eq!(
        response.headers()[PROXY_STATUS],
        "egret; error=tls_alert_received; alert-id=48; details=\
         \"mtls.rejected_unknown_ca: the origin said \\\"unknown_ca\\\" \\\\ f?r X??x: y\""
    );
}

#[test]
fn answers_every_code_with_its_status_and_an_error_type() {
    for &code in Code::ALL {
        let response = answer(&Failure::new(code, "why"), true, false, "r");
        assert_eq!(response.status(), code.status(), "{code}");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let status = response.headers()[PROXY_STATUS].to_str().unwrap();
        assert!(status.starts_with("egret; error="), "{status}");
        assert!(status.ends_with(&format!("details=\"{code}: why\"")), "{status}");
    }
}

#[test]
fn challenges_with_both_schemes() {
    let failure = Failure::new(Code::CallerUnauthenticated, "no credential");
    for (sidecar, status, name) in [(false, 407, PROXY_AUTHENTICATE), (true, 401, WWW_AUTHENTICATE)] {
        let response = answer(&failure, true, sidecar, "r");
        assert_eq!(response.status().as_u16(), status);
        let schemes: Vec<_> = response.headers().get_all(name).iter().map(|v| v.to_str().unwrap()).collect();
        assert_eq!(schemes, ["Basic realm=\"egret\", charset=\"UTF-8\"", "Bearer realm=\"egret\""]);
    }
}

#[test]
fn closes_after_what_was_not_understood() {
    assert_eq!(answer(&Failure::new(Code::RequestMalformed, "x"), true, false, "r").headers()[CONNECTION], "close");
    assert!(!answer(&Failure::new(Code::NetRefused, "x"), true, false, "r").headers().contains_key(CONNECTION));
}

#[test]
fn says_what_was_presented_when_an_answer_is_passed_on() {
    let status = StatusCode::BAD_REQUEST;
    assert_eq!(
        proxy_status_passed_on(status, Presented::NothingRegistered, None),
        "egret; received-status=400; details=\"origin asked for a client certificate; none presented\""
    );
    let id = CertificateId::parse("cert_1").unwrap();
    assert_eq!(
        proxy_status_passed_on(status, Presented::Sent, Some(&id)),
        "egret; received-status=400; details=\"origin asked for a client certificate; cert_1 presented\""
    );
}

#[test]
fn has_no_server_name_for_an_address() {
    assert_eq!(sni("https://192.0.2.1"), None);
    assert_eq!(sni("http://api.test"), None);
    assert_eq!(sni("https://api.test"), Some("api.test".to_owned()));
}

#[test]
fn tells_grpc_calls_in_grpcs_own_words() {
    let response = grpc(&rich(), true, "r-1");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "14");
    let message = response.headers()["grpc-message"].to_str().unwrap();
    assert!(
        message.starts_with("mtls.rejected_unknown_ca: the origin said \"unknown_ca\" \\ f%C3%BCr X%0D%0Ax: y"),
        "{message}"
    );
    assert!(message.ends_with("(request r-1)"), "{message}");
    let message = grpc(&rich(), false, "r-1").headers()["grpc-message"].clone();
    assert_eq!(message, "mtls.rejected_unknown_ca (request r-1)");
}

#[test]
fn closes_after_what_was_not_understood_whatever_the_caller_speaks() {
    let failure = Failure::new(Code::RequestMalformed, "the framing is ambiguous");
    assert_eq!(answer(&failure, true, false, "r-1").headers()["connection"], "close");
    assert_eq!(grpc(&failure, true, "r-1").headers()["connection"], "close");
    assert!(!grpc(&rich(), true, "r-1").headers().contains_key("connection"));
}
