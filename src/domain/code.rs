//! The stable failure codes of product.md section 7, with the status that each answers with.

use http::StatusCode;

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal, $status:ident;)*) => {
        /// A stable failure code. Scripts may rely on the text.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code { $($(#[doc = $doc])* $name,)* }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The text of the code.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The status that egret answers with (callers on a sidecar: see [`Code::status_on_sidecar`]).
            #[must_use]
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }
        }
    };
}

codes! {
    /// The origin demands a client certificate and none is registered for it.
    MtlsRequiredNoneRegistered = "mtls.required_none_registered", BAD_GATEWAY;
    /// The origin demands one; the scope of the project default withheld it.
    MtlsRequiredWithheld = "mtls.required_withheld", FORBIDDEN;
    /// The origin does not know the issuer of our certificate.
    MtlsRejectedUnknownCa = "mtls.rejected_unknown_ca", BAD_GATEWAY;
    /// The origin says that our certificate has expired.
    MtlsRejectedExpired = "mtls.rejected_expired", BAD_GATEWAY;
    /// The origin says that our certificate is revoked.
    MtlsRejectedRevoked = "mtls.rejected_revoked", BAD_GATEWAY;
    /// The origin refuses our certificate without saying more.
    MtlsRejectedBadCertificate = "mtls.rejected_bad_certificate", BAD_GATEWAY;
    /// The key can make none of the signatures that the origin accepts.
    MtlsNoCommonSignatureScheme = "mtls.no_common_signature_scheme", BAD_GATEWAY;
    /// The selected certificate is outside its validity, so it was not sent.
    MtlsIdentityExpired = "mtls.identity_expired", FORBIDDEN;
    /// The selected certificate cannot be loaded.
    MtlsIdentityUnavailable = "mtls.identity_unavailable", FORBIDDEN;
    /// The origin asks for the certificate by renegotiation, after the request.
    MtlsRenegotiationRequired = "mtls.renegotiation_required", BAD_GATEWAY;
    /// The origin closed after it had asked for a certificate; likely it wants another one.
    MtlsClosedAfterCertificate = "mtls.closed_after_certificate", BAD_GATEWAY;
    /// The origin's certificate leads to no trust anchor.
    TrustUnknownIssuer = "trust.unknown_issuer", BAD_GATEWAY;
    /// The origin's certificate is for another name.
    TrustNameMismatch = "trust.name_mismatch", BAD_GATEWAY;
    /// The origin's certificate is outside its validity.
    TrustServerExpired = "trust.server_expired", BAD_GATEWAY;
    /// The origin's certificate is invalid in another way.
    TrustInvalid = "trust.invalid", BAD_GATEWAY;
    /// The TLS handshake failed otherwise.
    TlsProtocol = "tls.protocol", BAD_GATEWAY;
    /// The origin's answer is not HTTP.
    UpstreamMalformed = "upstream.malformed", BAD_GATEWAY;
    /// `[egress]` does not allow the origin.
    PolicyOriginDenied = "policy.origin_denied", FORBIDDEN;
    /// The address guard does not allow the address.
    PolicyAddressDenied = "policy.address_denied", FORBIDDEN;
    /// The port is not allowed.
    PolicyPortDenied = "policy.port_denied", FORBIDDEN;
    /// No credential, or an unknown one (401 on a sidecar).
    CallerUnauthenticated = "caller.unauthenticated", PROXY_AUTHENTICATION_REQUIRED;
    /// The credential does not reach this project.
    CallerForbidden = "caller.forbidden", FORBIDDEN;
    /// The request is malformed or ambiguous.
    RequestMalformed = "request.malformed", BAD_REQUEST;
    /// The request names another origin than its tunnel.
    RequestMisdirected = "request.misdirected", MISDIRECTED_REQUEST;
    /// The request came through this egret already.
    RequestLoop = "request.loop", LOOP_DETECTED;
    /// The name does not exist.
    DnsNotFound = "dns.not_found", BAD_GATEWAY;
    /// The name could not be resolved.
    DnsFailed = "dns.failed", BAD_GATEWAY;
    /// Connection refused.
    NetRefused = "net.refused", BAD_GATEWAY;
    /// No route.
    NetUnreachable = "net.unreachable", BAD_GATEWAY;
    /// A deadline passed.
    NetTimeout = "net.timeout", GATEWAY_TIMEOUT;
    /// The connection was reset or closed before an answer.
    NetReset = "net.reset", BAD_GATEWAY;
    /// The client was too slow.
    LimitRequestTimeout = "limit.request_timeout", REQUEST_TIMEOUT;
    /// The request's head is too large.
    LimitHead = "limit.head", REQUEST_HEADER_FIELDS_TOO_LARGE;
    /// Too many connections to this origin are open or being opened.
    LimitConnections = "limit.connections", SERVICE_UNAVAILABLE;
    /// egret is ending.
    LimitDraining = "limit.draining", SERVICE_UNAVAILABLE;
    /// Too many failed attempts to authenticate.
    LimitAuthentication = "limit.authentication", TOO_MANY_REQUESTS;
    /// A fault in egret.
    Internal = "internal", INTERNAL_SERVER_ERROR;
}

impl Code {
    /// On a sidecar egret plays the origin, and a proxy's 407 would be out of place.
    #[must_use]
    pub fn status_on_sidecar(self) -> StatusCode {
        match self {
            Self::CallerUnauthenticated => StatusCode::UNAUTHORIZED,
            other => other.status(),
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
