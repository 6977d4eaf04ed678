//! egret as its users meet it: the real program, with origins and clients that nobody here wrote.
//!
//! One file per behaviour, named as a sentence. `./tests/run` installs what is needed and runs all of it.

mod harness;

mod acknowledged_certificates_survive_sigkill;
mod callers_prove_who_they_are;
mod clients_may_speak_http2;
mod commands_tell_the_truth;
mod deleted_certificate_is_never_presented_again;
mod every_origin_gets_its_own_certificate;
mod failures_explain_themselves;
mod graceful_end_finishes_what_runs;
mod headers_of_one_hop_stay_there;
mod large_bodies_stream_in_little_memory;
mod messages_keep_their_meaning;
mod origin_sees_the_selected_certificate;
mod origins_show_what_they_saw;
mod requests_that_may_not_pass_are_refused;
mod store_outlives_the_process;
mod thousand_requests_keep_their_identities;
mod tunnels_without_identity_are_blind;
mod two_projects_never_share_a_connection;
mod vercel_sdk_drives_the_api;
