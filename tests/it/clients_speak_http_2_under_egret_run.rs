//! Clients that prefer HTTP/2 get it under `egret run --`, on both sides of egret. See `clients_need_only_egret_run`.

use crate::harness::laptop::{Laptop, client};

/// What nginx was asked last came by HTTP/2.
#[track_caller]
fn assert_http_2(laptop: &Laptop) {
    let seen = laptop.nginx.seen();
    assert_eq!(seen.last().map(|request| request.http.as_str()), Some("HTTP/2.0"), "{seen:?}");
}

#[test]
fn curl_http2() {
    let laptop = Laptop::start();
    let said = laptop.serves(&["curl", "--http2", "-sSf", "-w", "%{http_version}", &laptop.https("/")]);
    assert!(said.ends_with("}2"), "{said}");
    assert_http_2(&laptop);
}

#[test]
fn heavy_go_http2() {
    let laptop = Laptop::start();
    let binary = laptop.go();
    let said = laptop.serves(&[&binary, &laptop.https("/")]);
    assert!(said.starts_with("HTTP/2.0 "), "{said}");
    assert_http_2(&laptop);
}

#[test]
fn heavy_java_http2() {
    let laptop = Laptop::start();
    let said = laptop.serves(&["java", &client("Fetch.java"), &laptop.https("/")]);
    assert!(said.starts_with("HTTP_2 "), "{said}");
    assert_http_2(&laptop);
}
