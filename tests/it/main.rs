//! egret as its users meet it: the real program, with origins and clients that nobody here wrote.
//!
//! One file per behaviour, named as a sentence. `./tests/run` installs what is needed and runs all of it.

mod harness;

mod acknowledged_certificates_survive_sigkill;
mod callers_prove_who_they_are;
mod certificates_name_the_project;
mod clients_may_speak_http2;
mod clients_need_only_egret_run;
mod clients_of_registries_need_only_egret_run;
mod clients_speak_http_2_under_egret_run;
mod commands_run_through_egret;
mod commands_tell_the_truth;
mod deleted_certificate_is_never_presented_again;
mod events_arrive_as_they_are_sent;
mod every_origin_gets_its_own_certificate;
mod explanations_hold;
mod failures_explain_themselves;
mod graceful_end_finishes_what_runs;
mod grpc_calls_carry_the_identity;
mod headers_of_one_hop_stay_there;
mod http2_origins_get_no_more_streams_than_they_take;
mod ipv6_works_everywhere;
mod large_bodies_stream_in_little_memory;
mod listeners_speak_tls;
mod machine_trusts_the_ca_when_told;
mod messages_keep_their_meaning;
mod metrics_say_what_happened;
mod origin_sees_the_selected_certificate;
mod origins_show_what_they_saw;
mod parents_lead_to_origins;
mod people_bring_what_they_were_handed;
mod plain_http_is_lifted_where_it_is_asked_for;
mod requests_that_may_not_pass_are_refused;
mod rotations_are_tried_out_first;
mod rotations_can_be_taken_back;
mod shells_and_manuals_know_every_command;
mod store_outlives_the_process;
mod the_api_is_what_it_says;
mod the_store_gets_another_key;
mod thousand_requests_keep_their_identities;
mod tokens_open_doors_until_they_are_revoked;
mod tunnels_without_identity_are_blind;
mod two_projects_never_share_a_connection;
mod unix_sockets_are_ways_in;
mod vercel_sdk_drives_the_api;
mod web_sockets_are_only_what_was_asked_for;
mod web_sockets_carry_the_identity;
mod web_sockets_come_over_http2;
