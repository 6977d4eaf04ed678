//! What the control floor refuses, in the words and numbers of this dialect.

use http::StatusCode;

use super::codes;
use crate::api::problem::{Detail, Problem};
use crate::control::{ControlError, EntryFault, EntryKind};
use crate::domain::Holder;
use crate::pki::validate::{Fault, FieldWords};

/// The refusal of something that was asked of one of the lists.
pub(super) fn refused(error: ControlError, list: Holder) -> Problem {
    let text = error.to_string();
    let bad = |number| Problem::bad_request(text.clone()).numbered(number);
    match error {
        ControlError::Invalid(faults) => {
            let words = if list == Holder::Account { FieldWords::ACCOUNT } else { FieldWords::ZONE };
            let details: Vec<_> = faults.iter().map(|fault| detail_of_fault(fault, &words)).collect();
            Problem::faulty(text, details)
        }
        ControlError::Entries(faults) => Problem::faulty(text, faults.into_iter().map(detail_of_entry).collect()),
        ControlError::Duplicate(_) if list == Holder::Account => bad(codes::ALREADY_IN_ACCOUNT),
        ControlError::Duplicate(_) => bad(codes::ALREADY_IN_ZONE),
        ControlError::InUse(_) if list == Holder::Account => bad(codes::IN_USE),
        // The vendor's words, which scripts look for, and then what they do not say.
        ControlError::InUse(why) => {
            Problem::bad_request(format!("Certificate cannot be deleted while in use: {why}")).numbered(codes::IN_USE)
        }
        ControlError::Full { .. } => bad(codes::QUOTA),
        ControlError::Ending(..) => bad(codes::PENDING_DELETION),
        ControlError::WrongList { .. } => bad(codes::NOT_NAMEABLE),
        ControlError::NotFound("certificate") => no_certificate(list),
        ControlError::Field { field, .. } => {
            let detail = Detail { message: text.clone(), number: None, pointer: Some(format!("/{field}")) };
            Problem::faulty(text, vec![detail])
        }
        // The token may do it; the place is not the API's to change.
        other @ ControlError::Declared(..) => Problem::from(other).with_status(StatusCode::BAD_REQUEST),
        other => other.into(),
    }
}

/// A certificate that is looked at and is not in this list.
pub(super) fn not_shown(error: ControlError, list: Holder) -> Problem {
    match error {
        // Whoever only looks finds nothing here, and is told where it is.
        ControlError::WrongList { held, .. } => {
            let message = format!("certificate not found: it is one of {}, and these are {}", held.list(), list.list());
            Problem::missing(message).numbered(number_of_none(list))
        }
        other => refused(other, list),
    }
}

/// No certificate of this list has the id.
pub(super) fn no_certificate(list: Holder) -> Problem {
    Problem::not_found("certificate").numbered(number_of_none(list))
}

fn number_of_none(list: Holder) -> u16 {
    match list {
        Holder::Account => codes::NOT_IN_ACCOUNT,
        Holder::Hostnames => codes::NO_HOSTNAME_CERTIFICATE,
        Holder::Zone | Holder::Project => codes::NO_ZONE_CERTIFICATE,
    }
}

fn detail_of_fault(fault: &Fault, words: &FieldWords) -> Detail {
    Detail {
        message: fault.told(words),
        number: Some(codes::of_fault(fault.kind)),
        pointer: Some(format!("/{}", words.of(fault.field))),
    }
}

fn detail_of_entry(fault: EntryFault) -> Detail {
    let number = match fault.kind {
        EntryKind::MissingCertificate => Some(codes::ID_WANTED),
        EntryKind::UnknownCertificate | EntryKind::WrongList => Some(codes::NOT_NAMEABLE),
        EntryKind::TooMany => Some(codes::QUOTA),
        EntryKind::Declared | EntryKind::Twice => None,
    };
    Detail {
        message: format!("config[{}].{}: {}", fault.index, fault.field, fault.what),
        number,
        pointer: Some(format!("/config/{}/{}", fault.index, fault.field)),
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use serde_json::Value;

    use super::*;
    use crate::api::cloudflare::envelope;
    use crate::domain::CertificateId;
    use crate::pki::validate::{FaultKind, Field};

    async fn told(problem: Problem) -> (u16, Value) {
        let response = envelope::around(problem.into_response());
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
        let body: Value = serde_json::from_slice(&bytes).unwrap();
        (status, body["errors"].clone())
    }

    #[tokio::test]
    async fn every_refusal_has_its_number_and_no_status_that_is_tried_again() {
        let id = || CertificateId::parse("0123456789abcdef0123456789abcdef").unwrap();
        let until = time::OffsetDateTime::UNIX_EPOCH;
        let wrong = || ControlError::WrongList { held: Holder::Zone, wanted: Holder::Hostnames };
        let declared = || ControlError::Declared("https://a.test:*".to_owned(), "egret.toml".to_owned());
        let full = || ControlError::Full { limit: "limits.max_zone_certificates", most: 10, what: "certificates" };
        for (error, list, status, number, says) in [
            (ControlError::Duplicate(id()), Holder::Zone, 400, 1406, "0123456789abcdef0123456789abcdef"),
            (ControlError::Duplicate(id()), Holder::Hostnames, 400, 1406, "already"),
            (ControlError::Duplicate(id()), Holder::Account, 400, 1471, "already"),
            (
                ControlError::InUse("by a".to_owned()),
                Holder::Hostnames,
                400,
                1433,
                "Certificate cannot be deleted while in use: by a",
            ),
            (ControlError::InUse("Certificate cannot".to_owned()), Holder::Account, 400, 1433, "Certificate cannot"),
            (full(), Holder::Zone, 400, 2005, "max_zone_certificates"),
            (ControlError::Ending(id(), 2, until), Holder::Zone, 400, 1414, "2 of its connections"),
            (wrong(), Holder::Hostnames, 400, 1415, "one of the zone's own certificates"),
            (ControlError::NotFound("certificate"), Holder::Zone, 404, 1552, "certificate not found"),
            (ControlError::NotFound("certificate"), Holder::Hostnames, 404, 1551, "certificate not found"),
            (ControlError::NotFound("certificate"), Holder::Account, 404, 1472, "certificate not found"),
            (ControlError::NotFound("project"), Holder::Zone, 404, 7003, "project not found"),
            (declared(), Holder::Zone, 400, 10400, "egret.toml"),
            (ControlError::Transferring, Holder::Zone, 400, 10400, "transferred"),
            (ControlError::Blocked, Holder::Zone, 402, 10402, "blocked"),
            (ControlError::Encrypting, Holder::Zone, 500, 10500, "encrypted"),
        ] {
            let shown = format!("{error:?}");
            let (got, errors) = told(refused(error, list)).await;
            assert_eq!((got, &errors[0]["code"]), (status, &Value::from(number)), "{shown}");
            assert!(errors[0]["message"].as_str().unwrap().contains(says), "{shown}: {errors}");
        }
        let (status, errors) = told(not_shown(wrong(), Holder::Hostnames)).await;
        assert_eq!((status, &errors[0]["code"]), (404, &Value::from(1551)));
    }

    #[tokio::test]
    async fn faults_of_material_are_told_in_the_words_of_the_list() {
        for (list, cert, ca) in
            [(Holder::Zone, "certificate", "certificate"), (Holder::Account, "certificates", "certificates")]
        {
            let faults = [
                (Field::Cert, FaultKind::NoLeaf, 2101, cert),
                (Field::Key, FaultKind::KeyMismatch, 2200, "private_key"),
                (Field::Ca, FaultKind::CaWanted, 1411, ca),
            ];
            let made = faults.iter().map(|(field, kind, ..)| Fault::new(*field, *kind, "what", "remedy"));
            let (status, errors) = told(refused(ControlError::Invalid(made.collect()), list)).await;
            assert_eq!(status, 400);
            for (at, (_, _, number, field)) in faults.iter().enumerate() {
                assert_eq!(errors[at]["code"], *number);
                assert_eq!(errors[at]["message"], format!("{field}: what; remedy"));
                assert_eq!(errors[at]["source"]["pointer"], format!("/{field}"));
            }
        }
    }
}
