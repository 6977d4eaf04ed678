use super::*;

fn said(result: Result<(), Problem>) -> String {
    format!("{:?}", result.expect_err("must be refused"))
}

#[test]
fn takes_what_is_known() {
    let body = br#"{"a": "x\ny\u00e9\ud83d\ude00\\\"\/", "b": true, "c": null, "t": {"id": "team_1"}}"#;
    let mut fields = Fields::parse(body).unwrap();
    assert_eq!(*fields.text("a"), "x\ny\u{e9}\u{1f600}\\\"/");
    assert!(fields.flag("b"));
    assert!(fields.text_or_null("c").is_none());
    assert!(fields.optional_text("d").is_none());
    let mut team = fields.object("t").unwrap();
    assert_eq!(*team.text("id"), "team_1");
    fields.absorb(team);
    fields.finish().unwrap();
}

#[test]
fn names_every_missing_field_at_once() {
    let mut fields = Fields::parse(b"{}").unwrap();
    let _ = (fields.text("cert"), fields.text("key"), fields.text_or_null("certId"));
    let said = said(fields.finish());
    assert!(said.contains("missing fields: cert, key, certId"), "{said}");
}

#[test]
fn names_every_fault_and_no_value() {
    let body =
        br#"{"cert": 1234567, "skip": "SECRET", "origin": null, "t": [1], "half": "SECRET\ud800", "extra": "SECRET",
        "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7": 1, "cert": "SECRET"}"#;
    let mut fields = Fields::parse(body).unwrap();
    let _ = (fields.text("cert"), fields.flag("skip"), fields.optional_text("origin"), fields.text("half"));
    assert!(fields.object("t").is_none());
    let said = said(fields.finish());
    for part in [
        "cert must be a string, not a number",
        "skip must be true or false, not a string",
        "origin must be a string, not null",
        "t must be an object, not an array",
        "half is not valid Unicode",
        "unknown field extra (known: cert, skip, origin, half, t)",
        "there is an unknown field",
        "cert is given twice",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    for value in ["SECRET", "1234567", "MII", "missing"] {
        assert!(!said.contains(value), "{value} in {said}");
    }
}

#[test]
fn says_where_the_json_breaks_and_shows_none_of_it() {
    for (body, place) in [
        (&b"{\"key\":\n \"SECRET"[..], "line 2, column"),
        (b"SECRET", "line 1, column 1"),
        (b"{\"a\": \"\xff\"}", "line 1, column"),
        (b"{} {}", "line 1, column 4"),
        (b"{\"a\": \"\n\"}", "line 1, column 7"),
        (b"[1]", "must be a JSON object"),
        (b"\"SECRET\"", "must be a JSON object"),
        (b" \n", "the body is empty"),
    ] {
        let said = format!("{:?}", Fields::parse(body).err().expect("must be refused"));
        assert!(said.contains(place) && !said.contains("SECRET"), "{place} in {said}");
    }
}

#[test]
fn bounds_the_number_of_fields() {
    let many: Vec<String> = (0..=MAX_FIELDS).map(|n| format!("\"f{n}\":1")).collect();
    assert!(Fields::parse(format!("{{{}}}", many.join(",")).as_bytes()).is_err());
}

#[test]
fn reads_lists_of_objects_and_says_where_in_them_something_is_wrong() {
    let body = br#"{"config": [{"a": "x", "b": null}, {"a": 1, "b": "SECRET", "later": 1}, 7, {"a": "y", "b": true, "a": "z"}], "new": 1}"#;
    let mut fields = Fields::parse(body).unwrap().lenient();
    let mut read = Vec::new();
    for mut object in fields.objects("config", 10) {
        read.push((object.text("a").to_string(), object.flag_or_null("b")));
        object.required_flag("c");
        fields.absorb(object);
    }
    assert_eq!(read[0], ("x".to_owned(), None));
    assert_eq!(read[2], ("y".to_owned(), Some(true)));
    let details = fields.finish().unwrap_err().into_details();
    let told: Vec<_> = details.iter().map(|d| (d.message.as_str(), d.pointer.as_deref())).collect();
    for expected in [
        ("config[0].c: is missing; the body needs it", Some("/config/0/c")),
        ("config[1].a must be a string, not a number", Some("/config/1/a")),
        ("config[1].b must be true, false or null, not a string", Some("/config/1/b")),
        ("config[2] must be an object, not a number", Some("/config/2")),
        ("config[3].a is given twice", None),
    ] {
        assert!(told.contains(&expected), "{expected:?} in {told:?}");
    }
    assert!(!format!("{told:?}").contains("later") && !format!("{told:?}").contains("SECRET"), "{told:?}");
}

#[test]
fn bounds_lists_of_objects_and_wants_one() {
    for (body, says) in [
        (&br#"{"config": [{}, {}, {}]}"#[..], "config: has more than 2 entries"),
        (b"{}", "missing field: config"),
        (br#"{"config": {"a": []}}"#, "config must be an array, not an object"),
        (br#"{"config": null}"#, "config must be an array, not null"),
    ] {
        let mut fields = Fields::parse(body).unwrap();
        assert!(fields.objects("config", 2).is_empty());
        let said = said(fields.finish());
        assert!(said.contains(says), "{says} in {said}");
    }
}
