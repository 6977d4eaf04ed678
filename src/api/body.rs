//! The body of a management request: bounded, in time, JSON by its own word, wiped when dropped. The buffers that
//! hyper read it into are freed as they are: it gives no way to wipe them.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::BodyExt;
use zeroize::Zeroizing;

use super::cloudflare;
use super::problem::Problem;
use crate::config::LiveLimits;

/// Reads the whole body.
///
/// # Errors
/// 415 unless it says that it is JSON (in Cloudflare's dialect also plain text, which is what `fetch` says of a string:
/// the vendor's wrangler uploads so), 413 above `limits.max_api_body`, 408 when it has not arrived within
/// `limits.upload_idle_timeout`, 400 when it breaks off.
pub(super) async fn read(request: Request, limits: &LiveLimits) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let (parts, body) = request.into_parts();
    let in_cloudflares = cloudflare::is_asked(parts.uri.path());
    let is_taken = |v: &[u8]| is_essence(v, "application/json") || (in_cloudflares && is_essence(v, "text/plain"));
    if !parts.headers.get(CONTENT_TYPE).is_some_and(|v| is_taken(v.as_bytes())) {
        return Err(Problem::media_type());
    }
    let declared = parts.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let limit = limits.max_api_body();
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    collect(body, limit, limits.upload_idle_timeout()).await
}

async fn collect(mut body: Body, limit: usize, deadline: Duration) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let chunks = async {
        let (mut chunks, mut length) = (Vec::<Bytes>::new(), 0);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Problem::bad_request("the body broke off; send it again"))?;
            let Ok(chunk) = frame.into_data() else { continue };
            length += chunk.len();
            if length > limit {
                return Err(too_large(limit));
            }
            chunks.push(chunk);
        }
        Ok((chunks, length))
    };
    let (chunks, length) = tokio::time::timeout(deadline, chunks).await.map_err(|_| Problem::timeout())??;
    // Sized before the first byte: a buffer that grows leaves copies behind.
    let mut whole = Zeroizing::new(Vec::with_capacity(length));
    for chunk in chunks {
        whole.extend_from_slice(&chunk);
    }
    Ok(whole)
}

fn too_large(limit: usize) -> Problem {
    Problem::too_large(format!("the body is larger than {}", size(limit)))
}

/// A size as a person writes it.
pub(super) fn size(bytes: usize) -> String {
    match bytes {
        b if b >= 1 << 20 && b % (1 << 20) == 0 => format!("{} MiB", b >> 20),
        b if b >= 1 << 10 && b % (1 << 10) == 0 => format!("{} KiB", b >> 10),
        b => format!("{b} bytes"),
    }
}

/// Whether a content type is this one, in any case, with any parameters (RFC 9110 section 8.3.1).
fn is_essence(content_type: &[u8], wanted: &str) -> bool {
    let essence = content_type.split(|b| *b == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;

    fn request(content_type: Option<&str>, body: impl Into<Body>) -> Request {
        let mut request = Request::new(body.into());
        if let Some(value) = content_type {
            request.headers_mut().insert(CONTENT_TYPE, value.parse().unwrap());
        }
        request
    }

    #[tokio::test]
    async fn takes_json_however_it_is_spelled() {
        for accepted in ["application/json", "Application/JSON; charset=utf-8", "application/json ;x=y"] {
            let body = read(request(Some(accepted), "{}"), &LiveLimits::default()).await.unwrap();
            assert_eq!(*body, b"{}");
        }
        for refused in [None, Some("text/plain"), Some("application/jsonp"), Some("application/x-www-form-urlencoded")]
        {
            let problem = read(request(refused, "{}"), &LiveLimits::default()).await.unwrap_err();
            assert_eq!(problem.status(), 415);
        }
    }

    #[tokio::test]
    async fn takes_what_fetch_calls_a_string_in_cloudflares_dialect_alone() {
        for (path, content_type, taken) in [
            ("/client/v4/accounts/1/mtls_certificates", "text/plain;charset=UTF-8", true),
            ("/client/v4/accounts/1/mtls_certificates", "text/html", false),
            ("/client/v4/accounts/1/mtls_certificates", "application/x-www-form-urlencoded", false),
            ("/v1/projects/a/client-cert", "text/plain;charset=UTF-8", false),
        ] {
            let mut asked = request(Some(content_type), "{}");
            *asked.uri_mut() = path.parse().unwrap();
            let read = read(asked, &LiveLimits::default()).await;
            assert_eq!(read.is_ok(), taken, "{path}: {content_type}");
        }
    }

    #[tokio::test]
    async fn refuses_what_is_too_large_declared_or_not() {
        let limits = LiveLimits::new(&Limits { max_api_body: 16, ..Limits::default() });
        let mut declared = request(Some("application/json"), "");
        declared.headers_mut().insert(CONTENT_LENGTH, "17".parse().unwrap());
        assert_eq!(read(declared, &limits).await.unwrap_err().status(), 413);
        let chunks = futures_util::stream::iter(["0123456789", "0123456789"].map(Ok::<_, std::io::Error>));
        let streamed = request(Some("application/json"), Body::from_stream(chunks));
        assert_eq!(read(streamed, &limits).await.unwrap_err().status(), 413);
        let exact = request(Some("application/json"), "0123456789abcdef");
        assert_eq!(read(exact, &limits).await.unwrap().len(), 16);
    }

    #[tokio::test]
    async fn gives_up_on_a_body_that_does_not_come() {
        let never = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        let limits = LiveLimits::new(&Limits { upload_idle_timeout: Duration::from_millis(5), ..Limits::default() });
        let problem = read(request(Some("application/json"), never), &limits).await.unwrap_err();
        assert_eq!(problem.status(), 408);
    }

    #[test]
    fn prints_sizes_as_people_write_them() {
        assert_eq!([size(1 << 20), size(64 << 10), size(1000)], ["1 MiB", "64 KiB", "1000 bytes"]);
    }
}
