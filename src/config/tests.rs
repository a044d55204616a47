//! Settings as they are declared, read and checked together.

use super::*;

fn every_row<S: Settings>() -> Vec<(String, String, String)> {
    let defaults = S::default();
    S::table().iter().map(|row| (row.key.to_owned(), row.help.clone(), (row.show)(&defaults))).collect()
}

#[test]
fn documentation_says_the_default() {
    for (key, help, shown) in every_row::<ServeSettings>().into_iter().chain(every_row::<ClientSettings>()) {
        let said = help.rsplit_once("Default").map_or("", |(_, rest)| rest).trim_start_matches(':').trim();
        let elsewhere = [
            "data_dir",
            "advertise",
            "namespace",
            "http_hosts",
            "cors_origins",
            "ops_listen",
            "zone",
            "breaker_off",
            "operator_token",
            "anonymous_read",
            "token_file",
            "audit_log",
            "jwt_keys",
            "jwt_issuer",
        ]
        .contains(&key.as_str())
            || key.starts_with("tls_")
            || ["ca", "cert", "key"].contains(&key.as_str());
        assert!(elsewhere || said == format!("{shown}."), "{key}: documented {said:?}, is {shown:?}");
        assert!(!said.is_empty(), "{key} documents no default");
    }
}

#[test]
fn what_is_shown_can_be_read() {
    fn round_trip<S: Settings + PartialEq + std::fmt::Debug>() {
        let (mut read, defaults) = (S::default(), S::default());
        for row in S::table() {
            let shown = (row.show)(&defaults);
            if !shown.is_empty() {
                (row.read)(&mut read, &shown).unwrap_or_else(|error| panic!("{}: {error}", row.key));
            }
        }
        assert_eq!(read, defaults);
    }
    round_trip::<ServeSettings>();
    round_trip::<ClientSettings>();
}

#[test]
fn beyond_loopback_needs_a_word() {
    let open = |listen: &str, insecure| {
        let mut settings = ServeSettings { insecure, data_dir: "x".into(), ..ServeSettings::default() };
        settings.listen = listen.split(',').map(|address| address.parse().unwrap()).collect();
        settings.check().len()
    };
    assert_eq!(open("127.0.0.1:1,[::1]:1,[::ffff:127.0.0.1]:1", false), 0);
    assert_eq!(open("0.0.0.0:1,[::]:1,10.0.0.1:1", false), 3);
    assert_eq!(open("0.0.0.0:1", true), 0);
    assert_eq!(open("127.0.0.1:1,127.0.0.1:1", false), 1);
    assert_eq!(open("127.0.0.1:0,127.0.0.1:0", false), 0);
    let port = |listen: &str, ops_listen: &str| {
        let [listen, ops_listen] = [listen, ops_listen].map(|address| vec![address.parse().unwrap()]);
        ServeSettings { listen, ops_listen, data_dir: "x".into(), ..ServeSettings::default() }.check()
    };
    let zone = |zone: &str| ServeSettings { zone: zone.into(), data_dir: "x".into(), ..ServeSettings::default() };
    assert_eq!(zone("eu-1").check(), [""; 0]);
    assert_eq!((zone("a\nb").check().len(), zone(&"z".repeat(129)).check().len()), (1, 1));
    assert_eq!(port("127.0.0.1:1", "127.0.0.1:2"), [""; 0]);
    assert_eq!(port("127.0.0.1:1", "127.0.0.1:1"), ["ops_listen: 127.0.0.1:1 is given twice"]);
    assert!(port("127.0.0.1:1", "10.0.0.1:2")[0].starts_with("ops_listen: 10.0.0.1:2 can be reached"));
}

#[test]
fn tls_needs_both_files_and_clients_certificates_are_enough_beyond_loopback() {
    let wrong = |given: &[&str]| {
        let mut settings = ServeSettings { data_dir: "x".into(), ..ServeSettings::default() };
        settings.listen = vec!["0.0.0.0:1".parse().unwrap()];
        for row in ServeSettings::table().iter().filter(|row| given.contains(&row.key)) {
            (row.read)(&mut settings, "some.pem").unwrap();
        }
        settings.check()
    };
    assert_eq!(wrong(&["tls_cert", "tls_key", "tls_client_ca"]), [""; 0]);
    // Who is only hidden lets everybody in.
    let [hidden] = &wrong(&["tls_cert", "tls_key"])[..] else { panic!() };
    assert!(hidden.starts_with("listen: 0.0.0.0:1 can be reached"), "{hidden}");
    let optional = ServeSettings {
        listen: vec!["0.0.0.0:1".parse().unwrap()],
        tls_cert: Some(Pem::parse("a")),
        tls_key: Some(Pem::parse("b")),
        tls_client_ca: Some(Pem::parse("c")),
        tls_client_auth: Some(ClientAuth::Optional),
        ..ServeSettings::default()
    };
    assert_eq!(check_serve(&optional).len(), 1);
    assert_eq!(check_serve(&ServeSettings { auth: true, ..optional }), [""; 0]);
    assert_eq!(wrong(&["tls_cert"])[1..], ["tls_cert: without tls_key it is of no use"]);
    let open = ServeSettings { tls_client_auth: Some(ClientAuth::Required), ..ServeSettings::default() };
    assert_eq!(check_serve(&open), ["tls_client_auth: without tls_client_ca it is of no use"]);
    let [open, key, authorities] = &wrong(&["tls_key", "tls_client_ca"])[..] else { panic!() };
    assert!(
        open.contains("--tls-client-ca") && open.contains("--auth") && open.contains("or add --insecure"),
        "{open}"
    );
    assert_eq!(key, "tls_key: without tls_cert it is of no use");
    assert_eq!(authorities, "tls_client_ca: without tls_cert it is of no use");
}

#[test]
fn a_key_is_not_shown() {
    let mut settings = ServeSettings::default();
    let row = ServeSettings::table().iter().find(|row| row.key == "tls_key").unwrap();
    (row.read)(&mut settings, "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----").unwrap();
    let shown = format!("{} {settings:?}", (row.show)(&settings));
    assert!(shown.contains("given as text") && !shown.contains("c2VjcmV0"), "{shown}");
}
