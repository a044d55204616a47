//! The real program on real sockets: what only processes can show. One file per behaviour; the harness knows none.
//! Every history that a test records is judged by all checkers of `tests/history`, each of which is for one promise;
//! below is which test is there for which promise; the tests of the task and of the state have others.
//!
//! | promise | tests |
//! | --- | --- |
//! | 1 never early | `lease::never_early_a_frozen_server_expires_none_of_1000_who_keep_beating`, `lease::never_early_a_suspend_of_server_and_clients_expires_nobody` |
//! | 2 never late | `lease::never_late_a_killed_join_is_offline_when_its_ttl_has_passed`, `lease::never_late_and_never_early_whenever_a_client_falls_silent` |
//! | 3 restart grace | `restart::restart_grace_gives_every_lease_its_time`, `restart::exact_resume_over_kill_9_and_nobody_who_keeps_beating_goes_offline` |
//! | 4 fencing, 5 healing | `client::a_join_outlives_its_lease_and_its_registry_and_yields_to_another_program`, `client::a_thousand_on_one_connection_outlive_restart_after_restart`, `bender::what_has_a_lease_token_is_left_alone`, `lease::fencing_and_healing_each_token_is_answered_for_itself`, `lease::the_end_of_a_heartbeat_stream_expires_nothing`, `lease::a_client_that_was_suspended_heals_by_itself`, `restart::a_join_registers_again_with_a_registry_that_lost_its_data`, `cli::every_command_has_its_exit_codes_and_json` |
//! | 6 breaker | `breaker::six_of_a_zone_that_are_killed_are_held_back_for_a_ttl_and_no_others_are`, `breaker::a_zone_that_comes_back_is_as_it_was`, `breaker::a_restart_gives_the_suspects_their_grace_and_they_go`, `breaker::turned_off_nothing_is_held_back` |
//! | 7 snapshot joins live | `watch::snapshot_joins_live_while_many_register`, `subscribe::each_subscription_is_for_itself_and_groups_come_together`, `polls::every_way_of_watching_sees_the_same` |
//! | 8 ordered, atomic | `watch::atomic_a_big_snapshot_and_a_big_revision_span_messages` |
//! | 9 exact resume | `following::a_watch_goes_on_over_kills_and_goaways_without_gap_or_repeat`, `restart::exact_resume_over_kill_9_and_nobody_who_keeps_beating_goes_offline`, `kill9::kill9_under_load_loses_nothing_and_a_watcher_misses_nothing`, `subscribe::each_subscription_resumes_from_its_own_token_over_kill_9`, `watch::a_token_that_cannot_be_continued_is_answered_in_band`, `restart::a_registry_without_its_data_is_another_registry`, `restart::a_token_of_a_history_that_was_undone_is_of_another_epoch`, `restart::a_token_older_than_the_kept_log_is_too_old_also_after_a_restart`, `polls::followers_over_http_lose_nothing_over_kill_9_and_a_freeze`, `polls::every_reset_comes_in_band` |
//! | 10 filters cross | `watch::filters_cross_and_selectors_unite`, `deployments::a_switch_is_one_revision_for_lookups_watches_and_health` |
//! | 11 bookmarks | `watch::a_quiet_stream_carries_bookmarks`, `subscribe::a_bookmark_has_a_group_for_each_subscription_and_shutdown_ends_with_one`, `events::a_quiet_stream_of_events_moves_on_by_comments` |
//! | 12 nobody waits | `watch::nobody_waits_for_a_watcher_that_never_reads`, `events::nobody_waits_for_a_stream_of_events_that_is_not_read` |
//! | 13 streams end well | `restart::every_stream_ends_well_when_the_server_is_told_to_stop`, `events::told_to_stop_it_cuts_streams_after_a_last_bookmark_and_answers_polls` |
//! | 14 durable, visible, answered | `kill9::kill9_under_load_loses_nothing_and_a_watcher_misses_nothing`, `disk::a_full_disk_loses_nothing_expires_nobody_and_heals_by_itself`, `disk::kill_9_on_a_full_disk_loses_nothing_either`, `deployments::kill9_in_the_middle_of_a_switch_is_before_or_after_and_never_between` |
//! | 15 read your writes, 16 typed emptiness | `watch::read_your_writes_and_typed_emptiness`, `lookup::an_empty_answer_is_held_until_something_matches_or_time_is_up` |
//! | 17 limits | `limits::every_limit_of_the_state_is_named_advertised_and_answered`, `limits::every_limit_of_watches_is_named_and_answered`, `limits::a_full_inbox_refuses_at_once_and_beats_have_their_own_lane`, `events::a_watch_over_http_ends_with_its_client_and_counts_as_one` |
//! | 18 every error | all of `input`, `hostile`, `http`, `http_transport` and `http_slow`, `events::who_watches_gets_what_it_accepts` |
//! | 19 safe by default | `start::safe_by_default_it_refuses_to_be_reached_from_elsewhere`, `tls::one_port_speaks_every_front_by_tls_and_nothing_in_the_clear`, `tls::clients_need_a_good_certificate_where_they_need_one`, `tls::what_is_wrong_at_a_reload_changes_nothing_and_is_said`, `tls::handshakes_that_never_end_keep_nobody_out`, `http_web::pages_of_configured_origins_may_call_and_nobody_elses`, `http_web::grpc_itself_is_judged_only_if_a_browser_may_have_sent_it` |

#[path = "../history/mod.rs"]
mod history;
#[allow(dead_code)] // what only other programs' clients need
#[path = "../clients/tools.rs"]
mod tools;

mod access;
mod bench;
mod bender;
mod breaker;
mod catalog;
mod catalog_lists;
mod catalog_live;
mod catalog_pages;
mod catalog_texts;
mod cli;
mod client;
mod client_faults;
mod costs;
mod curl;
mod dependencies;
mod deployments;
mod disk;
mod drain;
mod events;
mod following;
mod harness;
mod health;
mod hostile;
mod http;
mod http_slow;
mod http_transport;
mod http_web;
mod input;
mod instances;
mod ipv6;
mod itself;
mod keep;
mod keys;
mod kill9;
mod lease;
mod limits;
mod load;
mod lookup;
mod metrics;
mod migrating;
mod operator;
mod polls;
mod publish;
mod quotas;
mod readme;
mod restart;
mod revoked;
mod run;
mod run_several;
mod soak;
mod start;
mod subscribe;
mod tls;
mod tls_refused;
mod watch;
