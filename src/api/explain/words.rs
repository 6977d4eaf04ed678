//! What an explanation says in words. Somebody who asks wants to know why a certificate was not sent.

use std::sync::Arc;

use time::OffsetDateTime;

use super::{ExplainedCertificate, ExplainedStep, ExplainedVouch, NearMiss, Usability, Verdict, Wanted};
use crate::domain::time::rfc3339;
use crate::domain::{
    CertificateInfo, Code, DefaultScope, Holder, Origin, Pattern, PortRule, Rule, ServerTrust, Source, Validity,
};
use crate::identity::Presented;
use crate::policy::Denied;
use crate::registry::{Binding, Lifting, Outcome, Place, Refused, Remembered, Selection, Snapshot, Step, Target};
use crate::upstream::Route;

/// All that words are made of.
pub(super) struct Facts<'a> {
    pub(super) wanted: &'a Wanted,
    pub(super) origin: &'a Origin,
    pub(super) snapshot: &'a Snapshot,
    pub(super) outcome: Verdict,
    pub(super) selection: &'a Selection,
    pub(super) certificate: Option<&'a ExplainedCertificate>,
    pub(super) denied: Option<&'a Denied>,
    pub(super) refused: Option<&'a Refused>,
    pub(super) remembered: Option<&'a Remembered>,
    /// Of plain http.
    pub(super) lifting: Option<&'a Lifting>,
    pub(super) route: Option<&'a Route>,
    pub(super) near: &'a [NearMiss],
    pub(super) vouched_by: &'a [ExplainedVouch],
    /// Ids of CA bundles that are bound here in vain.
    pub(super) vouching_nothing: &'a [String],
}

/// `https://host:port`, the port always written.
fn address(origin: &Origin) -> String {
    format!("https://{}:{}", origin.host(), origin.port())
}

pub(super) fn summary(facts: &Facts<'_>) -> String {
    let project = &facts.snapshot.info().name;
    let what = match facts.outcome {
        Verdict::Denied => {
            let denied = facts.denied.map_or(("policy.origin_denied", ""), |d| (d.code.as_str(), d.why.as_str()));
            format!("refused ({}): {}", denied.0, denied.1)
        }
        Verdict::Refused => match facts.refused {
            Some(refused) => format!("refused ({}): {}{}", refused.code, refused.detail, chosen_by(facts)),
            None => "refused".to_owned(),
        },
        Verdict::Certificate => match facts.certificate {
            Some(certificate) => {
                format!("certificate {}{}{}", name(certificate), chosen_by(facts), lasting(certificate))
            }
            None => "a certificate".to_owned(),
        },
        Verdict::None => {
            let who = match &facts.selection.binding {
                Some(binding) if binding.association.is_some() => "the hostname's association is switched off",
                _ => "a binding says so",
            };
            format!("no certificate: {who}{}", chosen_by(facts))
        }
        Verdict::Withheld => {
            "no certificate: default.scope keeps the project-wide certificate from this origin".to_owned()
        }
        Verdict::Nothing => format!("no certificate: nothing is bound to it in project {project}"),
        Verdict::Plain => {
            let why = match facts.lifting {
                Some(Lifting::Never) => "the project says lift = \"never\"",
                Some(Lifting::Nothing(_)) => "a binding says that nothing is presented there",
                Some(Lifting::Declined(_)) => "its binding says lift = false",
                _ => "no binding lifts it",
            };
            format!("plain http, so no TLS and no certificate: {why}")
        }
    };
    match facts.wanted {
        Wanted::Https(origin) => format!("{} -> {what}", address(origin)),
        Wanted::Http(target) => {
            let http = format!("http://{}:{}", target.host(), target.port());
            match facts.outcome {
                Verdict::Plain | Verdict::Denied => format!("{http} -> {what}"),
                _ => format!("{http} -> lifted to {} -> {what}", address(facts.origin)),
            }
        }
    }
}

fn name(certificate: &ExplainedCertificate) -> &str {
    let subject = certificate.facts.as_ref().map(|facts| facts.subject.as_str());
    certificate.id.as_deref().or(subject).unwrap_or("of unknown id")
}

fn chosen_by(facts: &Facts<'_>) -> String {
    let Some(binding) = &facts.selection.binding else { return String::new() };
    let kind = match binding.pattern.rule() {
        Rule::Wildcard => "wildcard binding",
        Rule::Default if binding.derived => {
            return match facts.snapshot.roster().of(Holder::Zone).count() {
                // Nobody knows what there was.
                0 => " (the project default)".to_owned(),
                1 => " (the project default: the zone's certificate)".to_owned(),
                n => format!(" (the project default: zone certificate, the most recent of {n})"),
            };
        }
        Rule::Default => return " (the project default)".to_owned(),
        Rule::Exact | Rule::None | Rule::Nothing => "exact binding",
    };
    format!(" ({kind} {})", binding.pattern)
}

/// What the project-wide binding that was selected goes before, and why.
fn going_before(facts: &Facts<'_>) -> Option<String> {
    let chosen = facts.selection.binding.as_ref().filter(|binding| binding.pattern == Pattern::Default)?;
    let other = facts.snapshot.covered().filter(|other| !Arc::ptr_eq(other, chosen))?;
    let since = rfc3339(other.since);
    let named = other.target.certificate_id().map_or_else(String::new, |id| format!(", {id}"));
    let what = match (other.derived, &other.target) {
        (true, _) => format!("the zone certificate of {since}{named}"),
        (false, Target::None) => format!("the project-wide binding of {since} to none"),
        (false, _) => format!("the project-wide upload of {since}{named}"),
    };
    let why = if chosen.source == Source::Api { "it is later" } else { "a file declares it" };
    Some(format!("it goes before {what}, because {why}"))
}

fn lasting(certificate: &ExplainedCertificate) -> String {
    match (&certificate.facts, certificate.status) {
        (Some(facts), Usability::Expired) => format!(", expired {}, and sent all the same", facts.not_after),
        (Some(facts), Usability::NotYetValid) => {
            format!(", not valid before {}, and sent all the same", facts.not_before)
        }
        (Some(facts), _) => match facts.days_left {
            i64::MIN..=0 => ", expires today".to_owned(),
            1 => ", expires in 1 day".to_owned(),
            days => format!(", expires in {days} days"),
        },
        (None, _) => String::new(),
    }
}

pub(super) fn notes(facts: &Facts<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    if matches!(facts.outcome, Verdict::Certificate | Verdict::None) {
        notes.extend(going_before(facts));
    }
    let mut say = |text: &str| notes.push(text.to_owned());
    if facts.outcome == Verdict::Certificate {
        match facts.remembered {
            Some(Remembered { presented: Some(Presented::Sent), .. }) => {
                say("the origin asked for a certificate in its last full handshake, and this one was sent");
            }
            Some(Remembered { asked: false, .. }) => {
                say("the origin did not ask for a certificate when egret last looked, so none is sent to it");
            }
            Some(Remembered { shown: false, .. }) => {
                say("the origin asks for a certificate, but lists other CAs than this one's, so it is withheld");
            }
            _ => say("it is sent only if the origin asks for a certificate during the TLS handshake"),
        }
        if facts.selection.rule == Rule::Default {
            match &facts.snapshot.info().default_scope {
                DefaultScope::Any => {
                    say("default.scope is any: withheld from an origin that lists CAs if none of ours is among them")
                }
                DefaultScope::Hinted => {
                    say("default.scope is hinted: withheld unless the origin lists one of the certificate's issuers")
                }
                DefaultScope::Listed(_) => say("default.scope is listed, and default.origins has this origin"),
            }
        }
        if let Some(binding) = facts.selection.binding.as_ref().filter(|b| b.tls13_only) {
            let lifted_by = binding.allowing_tls12(&facts.snapshot.info().name);
            say(&format!(
                "its binding presents it over TLS 1.3 only, so an origin that has only TLS 1.2 is not reached; to allow TLS 1.2: {lifted_by}"
            ));
        }
        if facts.certificate.is_some_and(|c| c.holder == Some(Holder::Account.as_str())) {
            say(
                "it is one of the account's mTLS certificates, which other projects of the account may present as well",
            );
        }
        if let Some(why) = facts.certificate.and_then(|c| c.why.as_deref()) {
            say(&format!("of the certificate no more is known: {why}"));
        }
    }
    if facts.outcome == Verdict::Plain {
        match facts.lifting {
            Some(lifting @ (Lifting::Never | Lifting::Nothing(_) | Lifting::Declined(_))) => {
                say(&format!("only https can carry a certificate, and {}", lifting.why(facts.origin)));
            }
            _ => {
                say(
                    "only https can carry a certificate; http:// is lifted to https where an exact or wildcard binding names a certificate",
                );
                if facts.selection.rule == Rule::Default {
                    say("the project default alone lifts nothing: request the https:// URL instead");
                }
            }
        }
    }
    if matches!(facts.lifting, Some(Lifting::Always)) {
        say("it is lifted because the project says lift = \"always\"");
    }
    let bound = matches!(facts.lifting, Some(Lifting::Nothing(_) | Lifting::Declined(_)));
    if matches!(facts.outcome, Verdict::Nothing | Verdict::Plain | Verdict::Withheld)
        && !bound
        && let Some(miss) = facts.near.first()
    {
        say(&format!("the binding {} comes close, but {}", miss.pattern, miss.why));
    }
    let roster = facts.snapshot.roster();
    let zones = roster.of(Holder::Zone).count();
    if matches!(facts.outcome, Verdict::Nothing | Verdict::Plain) && zones > 0 && !roster.zone_enabled {
        say(
            "the zone has a certificate and is switched off; to present it: PUT /client/v4/zones/ID/origin_tls_client_auth/settings with enabled true",
        );
    }
    let has_nothing = zones == 0 && facts.snapshot.is_empty() && roster.vouching.is_empty();
    if matches!(facts.outcome, Verdict::Nothing | Verdict::Plain) && facts.near.is_empty() && has_nothing {
        say(&format!(
            "project {} has no bindings at all; if they are another project's, name it with --project",
            facts.snapshot.info().name
        ));
    }
    if !facts.vouched_by.is_empty() {
        let named = |vouch: &ExplainedVouch| format!("{} (bound to {})", vouch.cert_id, vouch.pattern);
        let named: Vec<_> = facts.vouched_by.iter().map(named).collect();
        let bundles = if named.len() == 1 { "a CA bundle vouches" } else { "CA bundles vouch" };
        say(&format!("{bundles} for the server of this origin: {}", named.join(", ")));
    }
    for id in facts.vouching_nothing {
        say(&match facts.snapshot.info().servers {
            ServerTrust::System => {
                format!(
                    "CA bundle {id} is bound here and vouches for nothing: the project's servers = \"system\" lets none vouch"
                )
            }
            ServerTrust::SystemAndCa | ServerTrust::Ca => format!(
                "CA bundle {id} is bound here and vouches for nothing: the project's account has no such bundle that could be read"
            ),
        });
    }
    match facts.route {
        _ if facts.outcome == Verdict::Denied => {}
        Some(Route { parent: Some(parent), resolved_by_parent: true, .. }) => say(&format!(
            "{parent} resolves the name, so [egress] judges the name alone and not the addresses that it leads to"
        )),
        _ => say("no name was resolved: [egress] also judges every address when a connection is made"),
    }
    notes
}

pub(super) fn fix(facts: &Facts<'_>) -> Option<String> {
    let project = match facts.snapshot.info().name.as_str() {
        "default" => String::new(),
        name => format!(" --project '{name}'"),
    };
    let upload = || format!("egret certs upload{project} --origin '{}' --cert FILE --key FILE --ca FILE", facts.origin);
    match facts.outcome {
        Verdict::Certificate | Verdict::None => None,
        Verdict::Denied => facts
            .denied
            .filter(|d| d.code == Code::PolicyOriginDenied)
            .map(|_| "change allow or deny in [egress] of the configuration, and start egret again".to_owned()),
        Verdict::Refused => facts.refused.and_then(|refused| refused.fix.clone()),
        Verdict::Withheld => Some(format!("add \"{}\" to default.origins of the project", facts.origin)),
        Verdict::Plain => match facts.lifting {
            Some(Lifting::Nothing(_)) => None,
            Some(Lifting::Never | Lifting::Declined(_)) => Some(format!("request {} instead", facts.origin)),
            _ => Some(upload()),
        },
        Verdict::Nothing => Some(upload()),
    }
}

/// Why a certificate that was not loaded would not be sent.
pub(super) fn outlived(info: &CertificateInfo, origin: &Origin, now: OffsetDateTime) -> Option<Refused> {
    let what = match info.validity(now) {
        Validity::Valid => return None,
        Validity::NotYet(from) => format!("is not valid before {}", rfc3339(from)),
        Validity::Expired(since) => format!("expired {}", rfc3339(since)),
    };
    Some(Refused {
        code: Code::MtlsIdentityExpired,
        detail: format!("the certificate for {origin} {what}; it would not be sent"),
        fix: Some("put a valid certificate in its file".to_owned()),
    })
}

pub(super) fn trace(steps: &[Step]) -> Vec<ExplainedStep> {
    let mut trace: Vec<_> = steps.iter().map(step).collect();
    let chosen = trace.iter().any(|step| step.chosen);
    let why = if chosen { "not reached" } else { "nothing is presented: ordinary TLS" };
    trace.push(ExplainedStep { place: "nothing", pattern: None, chosen: !chosen, why: why.to_owned() });
    trace
}

fn step(step: &Step) -> ExplainedStep {
    let place = match step.place {
        Place::HostPort => "exact host and port",
        Place::HostAnyPort => "exact host, any port",
        Place::WildcardPort => "wildcard, this port",
        Place::WildcardAnyPort => "wildcard, any port",
        Place::Default => "project default",
    };
    let why = match &step.outcome {
        Outcome::Chosen(binding) => match &binding.target {
            _ if binding.derived => "matched: the zone's most recent certificate".to_owned(),
            Target::None if binding.association.is_some() => {
                "matched: the hostname's association is switched off, so present nothing here".to_owned()
            }
            Target::Certificate(_) | Target::Unavailable(_) => "matched".to_owned(),
            Target::None => "matched: present nothing here".to_owned(),
        },
        Outcome::Overruled(_) => "bound, but a more specific binding matched".to_owned(),
        Outcome::OutOfScope(_) => "bound, but default.origins does not list this origin".to_owned(),
        Outcome::Unbound => "nothing is bound here".to_owned(),
        Outcome::Impossible => {
            "no wildcard can stand here: above an address, a name of one label, or a public suffix".to_owned()
        }
    };
    ExplainedStep {
        place,
        pattern: step.pattern.as_ref().map(Pattern::to_string),
        chosen: matches!(step.outcome, Outcome::Chosen(_)),
        why,
    }
}

pub(super) fn near_misses(bindings: &[Arc<Binding>], origin: &Origin) -> Vec<NearMiss> {
    let of = |binding: &Arc<Binding>| NearMiss {
        pattern: binding.pattern.to_string(),
        why: why_not(&binding.pattern, origin),
    };
    bindings.iter().map(of).collect()
}

/// Why `pattern`, which lies close to `origin`, does not cover it.
fn why_not(pattern: &Pattern, origin: &Origin) -> String {
    let other_port = |rule: &PortRule| match rule {
        PortRule::Exact(port) => format!("it is for port {port}, and this is port {}", origin.port()),
        PortRule::Any => "it is for every port".to_owned(),
    };
    match pattern {
        Pattern::Default => "it covers every origin".to_owned(),
        Pattern::Host(host, port) if host == origin.host() => other_port(port),
        Pattern::Host(host, _) => format!("it is for {host} itself; names below it need a binding of their own"),
        Pattern::Wildcard(suffix, port) if origin.host().parent() == Some(&**suffix) => other_port(port),
        Pattern::Wildcard(suffix, _) if **suffix == *origin.host().as_str() => {
            format!("the star stands for exactly one label, so {suffix} itself is not covered")
        }
        Pattern::Wildcard(..) => "the star stands for exactly one label, and here there are more".to_owned(),
    }
}
