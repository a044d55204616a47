//! `onair token`: who may do what. A token is printed once, when it is made, and can be written to a file instead.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    curl,
    deploy::{answer, every_page},
    failure::Failure,
    namespace::{Bounds, in_short},
    print::{Printer, note},
    session::Session,
    text::{Table, safe},
};
use crate::{
    access,
    config::{ClientSettings, Given, duration},
    private::Private,
    proto::{
        CertificateNames, CreateTokenRequest, GetTokenRequest, Grant, ListTokensRequest, ListTokensResponse,
        Permission, Quotas, RevokeTokenRequest, RotateTokenRequest, Token, UpdateTokenRequest,
        admin_client::AdminClient,
    },
    tls::AlternativeName,
};

const EXAMPLES: &str = "\
Examples:
  onair token create orders-ci --namespace team-a --allow read,register --services 'orders-*' --expires 90d
  onair token create ops --grant 'team-a=read,operate' --grant 'team-b/status-*=read'
  onair token create shop --grant 'shop=read,register' --certificate dns:shop
  onair token update orders-ci --instances 100 --watches 20 --writes 10
  onair token list
  onair token rotate orders-ci --overlap 2h --write orders-ci.token
  onair token revoke orders-ci

What is made is shown this once: --write keeps it in a file that only its owner can read. Name the file in --token-file
or ONAIR_TOKEN_FILE, or put the token itself into ONAIR_TOKEN.";

/// Arguments of `token`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make one, and print it.
    Create {
        /// Its name, which its principal has.
        name: String,
        #[command(flatten)]
        rights: Rights,
        /// How long it is good, like 90d; without it until it is revoked.
        #[arg(long, value_parser = span, value_name = "DURATION")]
        expires: Option<Duration>,
        #[command(flatten)]
        bounds: Bounds,
        #[command(flatten)]
        write: Written,
        #[command(flatten)]
        given: Given<ClientSettings>,
    },
    /// Show one.
    Get {
        /// Its name.
        name: String,
        #[command(flatten)]
        given: Given<ClientSettings>,
    },
    /// List them, by name.
    List {
        #[command(flatten)]
        given: Given<ClientSettings>,
    },
    /// Change what one allows; streams of its bearers go on with what they may see then.
    Update {
        /// Its name.
        name: String,
        #[command(flatten)]
        rights: Rights,
        /// How long it is good from now, like 90d.
        #[arg(long, value_parser = span, value_name = "DURATION")]
        expires: Option<Duration>,
        /// It has no end any more: it is good until it is revoked.
        #[arg(long, conflicts_with = "expires")]
        without_expiry: bool,
        /// No certificate is good in place of it any more.
        #[arg(long, conflicts_with = "certificate")]
        without_certificates: bool,
        #[command(flatten)]
        bounds: Bounds,
        #[command(flatten)]
        given: Given<ClientSettings>,
    },
    /// Make a new secret of one, and print it; the one before is good for a while beside it.
    Rotate {
        /// Its name.
        name: String,
        /// How long the secrets before are good; 0s: no longer. Without it an hour.
        #[arg(long, value_parser = span, value_name = "DURATION")]
        overlap: Option<Duration>,
        #[command(flatten)]
        write: Written,
        #[command(flatten)]
        given: Given<ClientSettings>,
    },
    /// Take one away: calls with it are refused from then on, and its bearers' streams end.
    Revoke {
        /// Its name.
        name: String,
        #[command(flatten)]
        given: Given<ClientSettings>,
    },
}

/// Where a token goes that is made.
#[derive(Debug, clap::Args)]
struct Written {
    /// Write the token into this file, which only its owner can read, and print nothing of it. What is there already is
    /// replaced when the token is made, and not before.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

impl Written {
    /// The file, before anything is asked of the server: what cannot be kept is not made.
    fn begin(self, print: &Printer) -> Result<Option<(PathBuf, Private)>, Failure> {
        let Some(path) = self.write.filter(|_| !print.is_curl()) else { return Ok(None) };
        let file = Private::create(&path, 0o600).map_err(cannot_keep(&path))?;
        Ok(Some((path, file)))
    }
}

fn cannot_keep(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::Other(format!("{}: {error}", path.display()))
}

/// What a token is to allow.
#[derive(Debug, clap::Args)]
struct Rights {
    /// Permissions in the namespace, joined by commas: read, register, publish, deploy, catalog, operate, admin.
    #[arg(long, value_delimiter = ',', value_parser = permission, value_name = "PERMISSION")]
    allow: Vec<access::Permission>,
    /// Of which services of the namespace: a name, or the beginning of names and a *.
    #[arg(long, default_value = "*", value_name = "PATTERN", requires = "allow")]
    services: String,
    /// Whose holders may do the same without the token: a name in client certificates, like dns:web.example or
    /// uri:spiffe://example.org/web; several by repeating it. In a change they replace those before.
    #[arg(long, value_parser = certificate, value_name = "NAME")]
    certificate: Vec<String>,
    /// Permissions elsewhere, like team-b/orders-*=read,register; several by repeating it.
    #[arg(long, value_parser = access::Grant::parse, value_name = "GRANT")]
    grant: Vec<access::Grant>,
}

fn permission(name: &str) -> Result<access::Permission, String> {
    access::Permission::of_name(name.trim()).ok_or_else(|| access::unknown(name))
}

fn certificate(name: &str) -> Result<String, &'static str> {
    AlternativeName::parse(name).map(|name| name.to_string())
}

/// A duration, in days as well.
fn span(text: &str) -> Result<Duration, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    days.map_or_else(|| duration(text), |days| Ok(Duration::from_secs(u64::from(days) * 24 * 3_600)))
}

fn on_the_wire(span: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: span.as_secs() as i64, nanos: span.subsec_nanos() as i32 }
}

impl Rights {
    /// Nothing is said of them unless one is given.
    fn certificates(&self) -> Option<CertificateNames> {
        (!self.certificate.is_empty()).then(|| CertificateNames { names: self.certificate.clone() })
    }

    fn grants(self, namespace: &str) -> Vec<Grant> {
        let namespace = if namespace.is_empty() { "default" } else { namespace };
        let permissions = |permissions: &mut dyn Iterator<Item = access::Permission>| {
            permissions.filter_map(|one| number_of(one.name())).collect::<Vec<i32>>()
        };
        let own = Grant {
            namespace: namespace.to_owned(),
            services: self.services,
            permissions: permissions(&mut self.allow.into_iter()),
        };
        let further = self.grant.into_iter().map(|grant| Grant {
            namespace: grant.realm.namespace.to_string(),
            services: grant.realm.service.to_string(),
            permissions: permissions(&mut grant.permissions.iter()),
        });
        std::iter::once(own).filter(|own| !own.permissions.is_empty()).chain(further).collect()
    }
}

/// The number that a permission has in the protos.
fn number_of(name: &str) -> Option<i32> {
    Permission::from_str_name(&format!("PERMISSION_{}", name.to_ascii_uppercase())).map(Into::into)
}

/// Does what was asked of a token.
///
/// # Errors
/// What went wrong.
pub async fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Action::Create { name, rights, expires, bounds, write, given } => {
            let mut session = Session::open(&given)?;
            let kept = write.begin(&session.print)?;
            let (what, certificates) = (format!("create the token {name}"), rights.certificates());
            let grants = rights.grants(&session.namespace);
            let quotas = bounds.is_given().then(|| bounds.over(Quotas::default()));
            let request = CreateTokenRequest { name, grants, ttl: expires.map(on_the_wire), certificates, quotas };
            let send = async |channel, request| AdminClient::new(channel).create_token(request).await;
            let Some(made) = answer(&mut session, "CreateToken", &what, request, send).await? else { return Ok(()) };
            let is_for_certificates = made.token.as_ref().is_some_and(|token| !token.certificates.is_empty());
            if is_for_certificates && kept.is_none() {
                note(
                    "who holds the certificate needs no token; this one is good beside it, for whoever sees it: \
                      `onair token rotate NAME --overlap 0s >/dev/null` makes one of it that nobody has seen",
                );
            }
            secret(&session.print, kept, "CreateTokenResponse", &made, (&made.secret, made.token.as_ref()))
        }
        Action::Get { name, given } => {
            let mut session = Session::open(&given)?;
            let what = format!("get the token {name}");
            let send = async |channel, request| AdminClient::new(channel).get_token(request).await;
            let found = answer(&mut session, "GetToken", &what, GetTokenRequest { name }, send).await?;
            found.map_or(Ok(()), |found| show(&session.print, found.token.as_slice()))
        }
        Action::List { given } => list(&given).await,
        Action::Update { name, rights, expires, without_expiry, without_certificates, bounds, given } => {
            let mut session = Session::open(&given)?;
            let what = format!("change the token {name}");
            let certificates = rights.certificates().or(without_certificates.then(CertificateNames::default));
            let (grants, ttl) = (rights.grants(&session.namespace), expires.map(on_the_wire));
            let (quotas, expected_revision) = bounded(&mut session, &what, &name, bounds).await?;
            let request =
                UpdateTokenRequest { name, grants, ttl, expected_revision, certificates, quotas, without_expiry };
            let send = async |channel, request| AdminClient::new(channel).update_token(request).await;
            let now = answer(&mut session, "UpdateToken", &what, request, send).await?;
            now.map_or(Ok(()), |now| show(&session.print, now.token.as_slice()))
        }
        Action::Rotate { name, overlap, write, given } => {
            let mut session = Session::open(&given)?;
            let kept = write.begin(&session.print)?;
            let what = format!("rotate the token {name}");
            let request = RotateTokenRequest { name, overlap: overlap.map(on_the_wire) };
            let send = async |channel, request| AdminClient::new(channel).rotate_token(request).await;
            let Some(made) = answer(&mut session, "RotateToken", &what, request, send).await? else { return Ok(()) };
            secret(&session.print, kept, "RotateTokenResponse", &made, (&made.secret, made.token.as_ref()))
        }
        Action::Revoke { name, given } => {
            let mut session = Session::open(&given)?;
            let (what, told) = (format!("revoke the token {name}"), format!("revoked {}", safe(&name)));
            let send = async |channel, request| AdminClient::new(channel).revoke_token(request).await;
            let gone = answer(&mut session, "RevokeToken", &what, RevokeTokenRequest { name }, send).await?;
            let Some(gone) = gone else { return Ok(()) };
            match session.print.is_json() {
                true => session.print.message("RevokeTokenResponse", &gone),
                false => session.print.line(&told),
            }
        }
    }
}

/// What a token's quotas are to be, and of which revision they were before; none: nothing was said of them.
async fn bounded(
    session: &mut Session,
    what: &str,
    name: &str,
    bounds: Bounds,
) -> Result<(Option<Quotas>, u64), Failure> {
    if !bounds.is_given() {
        return Ok((None, 0));
    }
    bounds.fit(&session.print)?;
    if bounds.are_all_given() {
        return Ok((Some(bounds.over(Quotas::default())), 0));
    }
    let send = async |channel, request| AdminClient::new(channel).get_token(request).await;
    let request = GetTokenRequest { name: name.to_owned() };
    let now = session.line.call(what, session.line.timeout(), request, send).await?.token.unwrap_or_default();
    Ok((Some(bounds.over(now.quotas.unwrap_or_default())), now.revision))
}

async fn list(given: &Given<ClientSettings>) -> Result<(), Failure> {
    let mut session = Session::open(given)?;
    let mut request = ListTokensRequest::default();
    if session.print.is_curl() {
        return curl::show(&session, "ListTokens", &request);
    }
    let mut all = ListTokensResponse::default();
    let send = async |channel, request| AdminClient::new(channel).list_tokens(request).await;
    every_page(&mut session, "list the tokens", &mut request, send, |page, request| {
        all.tokens.extend(page.tokens);
        (all.revision, request.page_token) = (page.revision, page.next_page_token);
        !request.page_token.is_empty()
    })
    .await?;
    match session.print.is_json() {
        true => session.print.message("ListTokensResponse", &all),
        false => show(&session.print, &all.tokens),
    }
}

/// The token itself, and nothing else, or where it is.
fn secret(
    print: &Printer,
    kept: Option<(PathBuf, Private)>,
    name: &str,
    answer: &impl prost::Message,
    (secret, token): (&str, Option<&Token>),
) -> Result<(), Failure> {
    match (kept, token) {
        (None, _) if print.is_json() => print.message(name, answer),
        (None, _) => print.line(secret),
        (Some((path, file)), token) => {
            file.fill(&format!("{secret}\n")).map_err(cannot_keep(&path))?;
            match token.filter(|_| print.is_json()) {
                Some(token) => print.message("Token", token),
                None => print.line(&format!("The token is in {}, which only its owner can read.", path.display())),
            }
        }
    }
}

fn show(print: &Printer, tokens: &[Token]) -> Result<(), Failure> {
    if print.is_json() {
        return tokens.iter().try_for_each(|token| print.message("Token", token));
    }
    let mut table =
        Table::new(["TOKEN", "ALLOWS", "EXPIRES", "SECRETS", "CERTIFICATES", "QUOTAS", "MADE BY", "REVISION"]);
    for token in tokens {
        let expires = token.expires_at.as_ref().map_or_else(|| "never".to_owned(), ToString::to_string);
        let allows: Vec<String> = token.grants.iter().map(allowed).collect();
        let certificates = if token.certificates.is_empty() { "-" } else { &token.certificates.join(" ") };
        let by = if token.created_by.is_empty() { "-" } else { &token.created_by };
        table.row([
            safe(&token.name).into_owned(),
            safe(&allows.join(" ")).into_owned(),
            expires,
            token.secrets.len().to_string(),
            safe(certificates).into_owned(),
            in_short(token.quotas.as_ref(), token.usage.as_ref()),
            safe(by).into_owned(),
            token.revision.to_string(),
        ]);
    }
    print.table(&table)
}

/// As a grant is written.
fn allowed(grant: &Grant) -> String {
    let name = |permission: Permission| permission.as_str_name().trim_start_matches("PERMISSION_").to_ascii_lowercase();
    let names: Vec<String> = grant.permissions().map(name).collect();
    format!("{}/{}={}", grant.namespace, grant.services, names.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_what_is_allowed_and_what_is_granted() {
        let rights = Rights {
            allow: vec![access::Permission::Read, access::Permission::Register],
            services: "orders-*".to_owned(),
            certificate: vec![],
            grant: vec![access::Grant::parse("team-b=admin").expect("a grant")],
        };
        let texts = |grants: Vec<Grant>| grants.iter().map(allowed).collect::<Vec<_>>();
        assert_eq!(texts(rights.grants("team-a")), ["team-a/orders-*=read,register", "team-b/*=admin"]);
        let none = Rights { allow: vec![], services: "*".to_owned(), certificate: vec![], grant: vec![] };
        assert!(none.grants("").is_empty());
    }

    #[test]
    fn spans_may_be_in_days() {
        assert_eq!(span("90d"), Ok(Duration::from_secs(90 * 24 * 3_600)));
        assert_eq!(span("2h"), duration("2h"));
        assert!(span("d").is_err() && span("-1d").is_err());
    }
}
