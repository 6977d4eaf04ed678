//! Clients speak HTTP/2 inside an intercepted tunnel and, with prior knowledge, to a sidecar, whatever the origin speaks.

use std::process::Command;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use crate::harness::clients::curl_command;
use crate::harness::origin::Next;
use crate::harness::partner::{NAME, Partner};
use crate::harness::wire::Wire;
use crate::harness::{PATIENCE, command, eventually, run_within, stdout_of};

/// What curl shows of an answer: version, status, then the body.
const SHOW: &str = "\n%{http_version} %{response_code} %{num_connects}";

/// curl through interception, with HTTP/2 offered.
fn intercepted(partner: &Partner, path: &str) -> Command {
    let ca = partner.world.write("egret-ca.pem", &partner.ca);
    let mut curl = curl_command();
    curl.args(["--http2", "--proxy", &format!("http://{}", partner.egret.listener("forward"))]);
    curl.arg("--cacert").arg(ca).args(["--write-out", SHOW]);
    curl.arg(format!("{}{path}", partner.origin.origin(NAME)));
    curl
}

/// curl with prior knowledge to the sidecar.
fn prior_knowledge(partner: &Partner, path: &str) -> Command {
    let mut curl = curl_command();
    curl.args(["--http2-prior-knowledge", "--write-out", SHOW]);
    curl.arg(format!("http://{}{path}", partner.egret.listener("partner")));
    curl
}

/// A partner that answers with the subject it saw and the length of what it was sent.
fn partner() -> Partner {
    Partner::start(|conversation, head| {
        if head.header("expect").is_some() {
            conversation.write("HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = conversation.body(head)?;
        let subject = conversation.subject.clone().unwrap_or_default();
        conversation.answer("200 OK", "X-Kind: partner\r\n", &format!("{subject} {}", body.len()))
    })
}

#[test]
fn curl_agrees_on_it_inside_a_tunnel_and_the_origin_sees_the_certificate() {
    let partner = partner();
    assert_eq!(stdout_of(&mut intercepted(&partner, "/x?y=z")), "the-client 0\n2 200 1");
    let heads = partner.origin.heads();
    let authority = format!("{NAME}:{}", partner.origin.port());
    assert!(heads[0].starts_with("GET /x?y=z HTTP/1.1\r\n"), "{heads:?}");
    assert!(heads[0].to_ascii_lowercase().contains(&format!("\r\nhost: {authority}\r\n")), "{heads:?}");
    assert!(heads[0].to_ascii_lowercase().contains("\r\nvia: 2 egret-"), "{heads:?}");
}

#[test]
fn who_offers_http_1_1_alone_gets_it() {
    let partner = partner();
    let output = stdout_of(intercepted(&partner, "/").arg("--http1.1"));
    assert_eq!(output, "the-client 0\n1.1 200 1");
}

#[test]
fn prior_knowledge_on_a_sidecar_needs_no_upgrade() {
    let partner = partner();
    assert_eq!(stdout_of(&mut prior_knowledge(&partner, "/x")), "the-client 0\n2 200 1");
    let heads = partner.origin.heads();
    let authority = format!("{NAME}:{}", partner.origin.port());
    assert!(heads[0].to_ascii_lowercase().contains(&format!("\r\nhost: {authority}\r\n")), "{heads:?}");
    // The same port, as before.
    let mut old = curl_command();
    let url = format!("http://{}/", partner.egret.listener("partner"));
    assert_eq!(stdout_of(old.args(["--http1.1", "--write-out", SHOW, &url])), "the-client 0\n1.1 200 1");
}

#[test]
fn an_upgrade_to_h2c_is_never_honoured_and_goes_no_further() {
    let partner = partner();
    let mut curl = curl_command();
    let url = format!("http://{}/", partner.egret.listener("partner"));
    // Asks with Upgrade: h2c, and takes the answer as it comes.
    assert_eq!(stdout_of(curl.args(["--http2", "--write-out", SHOW, &url])), "the-client 0\n1.1 200 1");
    let head = partner.origin.heads().remove(0).to_ascii_lowercase();
    assert!(!head.contains("upgrade") && !head.contains("http2-settings"), "{head}");
}

#[test]
fn bodies_of_any_size_cross() {
    let partner = partner();
    let file = partner.world.path("upload");
    std::fs::write(&file, vec![b'x'; 3_000_000]).expect("writable");
    for mut curl in [intercepted(&partner, "/"), prior_knowledge(&partner, "/")] {
        curl.args(["--request", "POST", "--data-binary", &format!("@{}", file.display())]);
        assert_eq!(stdout_of(&mut curl), "the-client 3000000\n2 200 1");
    }
    // Of unknown length, and with an expectation that cannot be answered on the way.
    for fields in [&["-H", "Content-Length:"][..], &["-H", "Expect: 100-continue"]] {
        for mut curl in [intercepted(&partner, "/"), prior_knowledge(&partner, "/")] {
            curl.args(["--upload-file", &file.display().to_string()]).args(fields);
            assert_eq!(stdout_of(&mut curl), "the-client 3000000\n2 200 1", "{fields:?}");
        }
    }
}

#[test]
fn an_answer_that_breaks_off_does_not_look_whole() {
    let partner = Partner::start(|conversation, _| {
        conversation.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")?;
        Ok(Next::Cut)
    });
    for mut curl in [intercepted(&partner, "/"), prior_knowledge(&partner, "/")] {
        let output = run_within(PATIENCE, &mut curl);
        assert!(!output.status.success(), "{output:?}");
    }
}

#[test]
fn an_early_refusal_is_heard_over_the_upload() {
    let partner = Partner::start(|conversation, _| {
        conversation.answer("413 Content Too Large", "Connection: close\r\n", "too large")?;
        Ok(Next::Close)
    });
    let file = partner.world.path("upload");
    std::fs::write(&file, vec![b'x'; 3_000_000]).expect("writable");
    for mut curl in [intercepted(&partner, "/"), prior_knowledge(&partner, "/")] {
        curl.args(["--upload-file", &file.display().to_string()]);
        assert_eq!(stdout_of(&mut curl), "too large\n2 413 1");
    }
}

#[test]
fn many_streams_share_few_connections() {
    let partner = partner();
    let url = format!("http://{}/", partner.egret.listener("partner"));
    let report = stdout_of(command("h2load").args(["-n", "2000", "-c", "4", "-m", "50", &url]));
    assert!(report.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{report}");
    assert!(report.contains("status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{report}");
    assert_eq!(partner.origin.heads().len(), 2000);
    assert!(partner.origin.seen().iter().all(|seen| seen.subject.as_deref() == Some("the-client")));
}

#[test]
fn another_library_reads_our_frames() {
    let partner = partner();
    let url = format!("http://{}/", partner.egret.listener("partner"));
    let talk = stdout_of(command("nghttp").args(["--verbose", "--no-dep", &url]));
    for told in ["SETTINGS_MAX_CONCURRENT_STREAMS(0x03):256", ":status: 200", "x-kind: partner", "END_STREAM"] {
        assert!(talk.contains(told), "{told}: {talk}");
    }
    // nghttp's own trailers are dropped on the way to an HTTP/1.1 origin that was not told of them.
    let talk = stdout_of(command("nghttp").args(["--verbose", "--no-dep", "--trailer=x-sum: 1"]).args([
        "--data",
        &partner.world.write("body", "hello").display().to_string(),
        &url,
    ]));
    assert!(talk.contains("the-client 5"), "{talk}");
}

#[test]
fn what_names_another_server_is_misdirected() {
    let partner = partner();
    for (fields, status) in [(["-H", "Host: other.test"], 421), (["-H", "X-Blank: a"], 200)] {
        let output = stdout_of(intercepted(&partner, "/").args(fields));
        assert!(output.ends_with(&format!("\n2 {status} 1")), "{output}");
    }
    assert_eq!(partner.origin.heads().len(), 1);
}

#[test]
fn a_clear_text_proxy_port_refuses_it_cleanly() {
    let partner = partner();
    let mut wire = Wire::connect(partner.egret.listener("forward"));
    wire.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    let reply = wire.reply("PRI");
    reply.assert_failure(400, "request.malformed");
    assert!(reply.text().contains("this connection speaks HTTP/1.1"), "{}", reply.text());
    assert!(wire.is_closed());
}

#[test]
fn a_stream_that_runs_is_finished_when_egret_ends() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let mut partner = Partner::start(move |conversation, _| {
        conversation.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")?;
        let _ = wait.lock().expect("one user").recv_timeout(Duration::from_secs(30));
        conversation.write("-last")?;
        Ok(Next::KeepAlive)
    });
    let mut curl = prior_knowledge(&partner, "/");
    let client = std::thread::spawn(move || stdout_of(&mut curl));
    eventually("the request arrives", || (partner.origin.heads().len() == 1).then_some(()));
    partner.egret.terminate();
    eventually("nothing new is taken", || {
        std::net::TcpStream::connect(partner.egret.listener("partner")).is_err().then_some(())
    });
    go.send(()).expect("the origin waits");
    assert_eq!(client.join().expect("curl gets an answer"), "first-last\n2 200 1");
    assert_eq!(eventually("egret ends", || partner.egret.ended()).code(), Some(0));
}
