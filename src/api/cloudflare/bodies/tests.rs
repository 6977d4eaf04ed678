use serde_json::json;

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef";

/// `(text, number, pointer)` of every fault.
fn told<T>(read: Result<T, Problem>) -> Vec<(String, Option<u16>, Option<String>)> {
    let problem = read.err().expect("must be refused");
    problem.into_details().into_iter().map(|d| (d.message, d.number, d.pointer)).collect()
}

fn entries(config: &serde_json::Value) -> Result<Vec<Wanted>, Problem> {
    read_config(json!({ "config": config, "later": 1 }).to_string().as_bytes(), 200)
}

#[test]
fn reads_uploads_and_ignores_what_it_does_not_know() {
    let upload = ZoneUpload::read(br#"{"certificate":"c\n","private_key":"k","bundle_method":"force"}"#, 64).unwrap();
    assert_eq!((upload.certificate.as_str(), upload.private_key.as_str()), ("c\n", "k"));
    let leaf = AccountUpload::read(br#"{"ca":false,"certificates":"c","private_key":"k","name":"n"}"#, 64).unwrap();
    assert_eq!(
        (leaf.ca, leaf.name.as_deref(), leaf.private_key.as_deref().map(String::as_str)),
        (false, Some("n"), Some("k"))
    );
    let bundle = AccountUpload::read(br#"{"ca":true,"certificates":"c","name":""}"#, 64).unwrap();
    assert!(bundle.ca && bundle.name.is_none() && bundle.private_key.is_none());
    let nulls = br#"{"ca":true,"certificates":"c","name":null,"private_key":null}"#;
    let bundle = AccountUpload::read(nulls, 64).unwrap();
    assert!(bundle.ca && bundle.name.is_none() && bundle.private_key.is_none(), "null is left out");
}

#[test]
fn names_every_fault_of_an_upload_with_its_place() {
    let said = told(ZoneUpload::read(br#"{"certificate":1}"#, 64));
    assert_eq!(said[0].2.as_deref(), Some("/private_key"));
    assert_eq!(
        said[1],
        ("certificate must be a string, not a number".to_owned(), None, Some("/certificate".to_owned()))
    );
    let large = "x".repeat(65);
    let body = json!({"certificate": large, "private_key": large}).to_string();
    let problem = ZoneUpload::read(body.as_bytes(), 64).err().unwrap();
    assert_eq!(problem.status(), 413);
    assert_eq!(
        problem.into_details().iter().map(|d| d.pointer.as_deref()).collect::<Vec<_>>(),
        [Some("/certificate"), Some("/private_key")]
    );
    for (body, pointer, says) in [
        (r#"{"certificates":"c"}"#, "/ca", "ca: is missing"),
        (r#"{"ca":"true","certificates":"c"}"#, "/ca", "ca must be true or false, not a string"),
        (r#"{"ca":false,"certificates":"c"}"#, "/private_key", "is missing; a client certificate"),
        (r#"{"ca":false,"certificates":"c","private_key":null}"#, "/private_key", "is missing; a client certificate"),
        (r#"{"ca":true,"certificates":"c","name":"a\nb"}"#, "/name", "control character"),
        (r#"{"ca":true}"#, "/certificates", "is missing"),
    ] {
        let said = told(AccountUpload::read(body.as_bytes(), 64));
        assert!(
            said.iter().any(|(text, _, at)| at.as_deref() == Some(pointer) && text.contains(says)),
            "{body}: {said:?}"
        );
        assert!(!format!("{said:?}").contains("SECRET"), "{said:?}");
    }
}

#[test]
fn reads_what_hostnames_are_to_have() {
    let uuid = "01234567-89AB-cdef-0123-456789abcdef";
    let read = entries(&json!([
        {"hostname": "API.Example.com.", "cert_id": uuid, "enabled": true},
        {"hostname": "b\u{fc}cher.example", "cert_id": ID, "enabled": false, "note": 1},
        {"hostname": "void.example", "enabled": null},
        {"hostname": "void2.example", "enabled": null, "cert_id": ID},
        {"hostname": "api.example.com", "cert_id": ID, "enabled": true},
        {"hostname": "192.0.2.7", "cert_id": ID, "enabled": true},
        {"hostname": "void3.example", "enabled": null, "cert_id": null},
        {"hostname": "void4.example", "enabled": null, "cert_id": ""},
        {"hostname": "void5.example", "enabled": null, "cert_id": "gone"},
        {"hostname": "nothing.example", "enabled": false, "cert_id": ""},
    ]))
    .unwrap();
    let read: Vec<_> = read
        .iter()
        .map(|e| (e.hostname.as_str(), e.certificate.as_ref().map(CertificateId::as_str), e.enabled))
        .collect();
    assert_eq!(
        read,
        [
            ("api.example.com", Some(ID), Some(true)),
            ("xn--bcher-kva.example", Some(ID), Some(false)),
            ("void.example", None, None),
            ("void2.example", None, None),
            ("api.example.com", Some(ID), Some(true)),
            ("192.0.2.7", Some(ID), Some(true)),
            ("void3.example", None, None),
            ("void4.example", None, None),
            ("void5.example", None, None),
            ("nothing.example", None, Some(false)),
        ]
    );
    assert_eq!(entries(&json!([])).unwrap(), []);
}

#[test]
fn says_what_is_wrong_with_an_entry_and_where() {
    let long = "a".repeat(256);
    let entry = |hostname: &str| json!({"hostname": hostname, "cert_id": ID, "enabled": true});
    for (wrong, at, number, says) in [
        (entry("*.example.com"), "hostname", None, "is a wildcard"),
        (entry("https://a.example"), "hostname", None, "is a URL"),
        (entry("a.example/path"), "hostname", None, "is a URL"),
        (entry("a.example:443"), "hostname", None, "has a port"),
        (entry("[2001:db8::1]"), "hostname", None, "is an IPv6 address"),
        (entry("[2001:db8::1]:443"), "hostname", None, "is an IPv6 address"),
        (entry("2001:db8::1"), "hostname", None, "is an IPv6 address"),
        (entry("0x7f.1"), "hostname", None, "four decimal numbers"),
        (entry(&long), "hostname", None, "longer than 255"),
        (entry(&format!("{}a", "a.".repeat(127))), "hostname", None, "longer than 253"),
        (entry(&format!("{}.example", "a".repeat(64))), "hostname", None, "longer than 63"),
        (entry("a..b"), "hostname", None, "empty label"),
        (entry("a b"), "hostname", None, "not allowed"),
        (entry(""), "hostname", None, "is empty"),
        (json!({"cert_id": ID, "enabled": true}), "hostname", None, "is missing"),
        (json!({"hostname": 1, "cert_id": ID, "enabled": true}), "hostname", None, "must be a string"),
        (json!({"hostname": "a.example", "cert_id": "x", "enabled": true}), "cert_id", Some(1415), "32 hex digits"),
        (
            json!({"hostname": "a.example", "cert_id": "x".repeat(37), "enabled": null}),
            "cert_id",
            Some(1415),
            "32 hex digits",
        ),
        (json!({"hostname": "a.example", "cert_id": 7, "enabled": true}), "cert_id", None, "must be a string or null"),
        (json!({"hostname": "a.example", "cert_id": ID}), "enabled", None, "is missing"),
        (
            json!({"hostname": "a.example", "cert_id": ID, "enabled": "true"}),
            "enabled",
            None,
            "must be true, false or null",
        ),
    ] {
        let mut config = vec![json!({"hostname": "fine.example", "cert_id": ID, "enabled": true}); 3];
        config.push(wrong.clone());
        let said = told(entries(&json!(config)));
        assert_eq!(said.len(), 1, "{wrong}: {said:?}");
        assert_eq!(
            (said[0].1, said[0].2.as_deref()),
            (number, Some(format!("/config/3/{at}").as_str())),
            "{wrong}: {said:?}"
        );
        assert!(said[0].0.contains(says) && said[0].0.starts_with("config[3]."), "{wrong}: {said:?}");
    }
    assert!(told(read_config(b"{}", 200))[0].0.contains("config: is missing"));
    let many = vec![json!({"hostname": "a.example", "enabled": null}); 201];
    assert!(told(entries(&json!(many)))[0].0.contains("more than 200 entries"));
}

#[test]
fn an_id_is_32_hex_digits_or_a_uuid_of_them() {
    for (text, id) in [
        (ID, Some(ID)),
        ("0123456789ABCDEF0123456789ABCDEF", Some(ID)),
        ("01234567-89ab-cdef-0123-456789abcdef", Some(ID)),
        ("0123456-789ab-cdef-0123-456789abcdef1", None),
        ("0123456789abcdef-0123-4567-89ab-cdef", None),
        ("0123456789abcdef0123456789abcde", None),
        ("g123456789abcdef0123456789abcdef", None),
        ("cert_0123456789abcdef0123456789abcdef", None),
        ("", None),
        ("settings", None),
    ] {
        assert_eq!(read_id(text).as_deref(), id, "{text}");
    }
}

#[test]
fn settings_are_one_word() {
    assert!(read_settings(br#"{"enabled":true,"x":1}"#).unwrap());
    for body in [&b"{}"[..], br#"{"enabled":null}"#, br#"{"enabled":"on"}"#, b"[]", b""] {
        assert_eq!(read_settings(body).unwrap_err().status(), 400);
    }
}
