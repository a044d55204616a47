//! `onair.v1.Admin`: each call is read, judged by what its token speaks of, handed to the registry, and answered. A secret
//! is drawn here and shown here, and is nowhere else.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prost_types::Timestamp;
use smol_str::{SmolStr, ToSmolStr as _};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{deadline, namespaces, server::admin_server::Admin};
use crate::{
    access::{
        self, Gate, Grants, Keeper, Permission, Who,
        token::{self, CERTIFICATES_MAX, GRANTS_MAX, HeldSecret, OPERATOR, SECRETS_MAX, Secret, Token},
    },
    actor::RegistryHandle,
    proto::{self, *},
    registry::{Error, Pattern, Realm, Revision, Violation, Whose, Write},
    tls::AlternativeName,
};

/// Most tokens, or namespaces, in a page.
pub(super) const PAGE_MAX: usize = 1_000;
/// How long the secrets before a new one are good for who does not say.
const OVERLAP: u64 = 3_600;
/// The longest that they can be.
const OVERLAP_MAX: u64 = 30 * 24 * 3_600;
/// The longest time that a token is good for, if it has an end: a hundred years.
const TTL_MAX: u64 = 100 * 365 * 24 * 3_600;

/// The service.
#[derive(Clone)]
pub struct AdminService {
    pub(super) handle: RegistryHandle,
    gate: Gate,
    clock: access::Clock,
}

impl std::fmt::Debug for AdminService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminService").field("gate", &self.gate).finish_non_exhaustive()
    }
}

/// A refusal of what a caller may not administer.
pub(super) const REFUSED: Error = Error::Permission { permission: "admin" };

impl AdminService {
    /// The service over `handle`, for those whom the gate let in.
    #[must_use]
    pub fn new(handle: RegistryHandle, gate: Gate) -> Self {
        Self { handle, gate, clock: Keeper::wall() }
    }

    fn now(&self) -> u64 {
        (self.clock)()
    }

    /// The token of this name, if the caller may administer it. Who may not everywhere is told nothing of what is there.
    fn held(&self, who: &Who, name: &str) -> Result<Token, Error> {
        who.is_about_token(name);
        let document = self.handle.token(name).0;
        match document.and_then(|document| Token::of(&document)) {
            Some(token) if administers(who, &token) => Ok(token),
            None if who.may_everywhere(Permission::Admin) => Err(missing(name)),
            _ => Err(REFUSED),
        }
    }

    /// All that is shown of a token, with what its principal has.
    fn shown(&self, token: &Token) -> proto::Token {
        let whose = Whose::Principal(token.principal());
        proto::Token { usage: Some(namespaces::usage(&self.handle, &whose, &token.quota)), ..shown(token) }
    }

    /// Writes a token in place of one of a revision, 0 for none, and gives what stands there then.
    async fn put(
        &self,
        token: &Token,
        expected: Revision,
        deadline: Option<Instant>,
    ) -> Result<(Option<proto::Token>, Revision), Error> {
        let write = Write { key: token::key(&token.name), body: Some(token.body()), expected };
        let (document, revision) = self.handle.write(write, deadline).await?;
        Ok((document.and_then(|document| Token::of(&document)).map(|token| self.shown(&token)), revision))
    }
}

fn missing(name: &str) -> Error {
    Error::NoSuch { kind: "Token", name: name.to_owned() }
}

/// Whether all that a token speaks of is the caller's to administer. What it says beyond what is understood here, or if it
/// says nothing, is for who may everywhere.
fn administers(who: &Who, token: &Token) -> bool {
    let is_understood = token.unknown.is_empty() && !token.grants.grants().is_empty();
    who.may_everywhere(Permission::Admin) || is_understood && grants(who, &token.grants)
}

/// Whether it is the caller's to give these away.
fn grants(who: &Who, grants: &Grants) -> bool {
    grants.grants().iter().all(|grant| who.may_in(Permission::Admin, &grant.realm))
}

/// A secret, drawn at random.
fn draw() -> Result<Secret, Error> {
    let mut bits = [0; 32];
    getrandom::fill(&mut bits).map_err(|error| Error::StoreUnavailable {
        reason: smol_str::format_smolstr!("no random numbers: {error}"),
        outcome_unknown: false,
    })?;
    Ok(Secret(bits))
}

fn time(seconds: u64) -> Timestamp {
    Timestamp { seconds: i64::try_from(seconds).unwrap_or(i64::MAX), nanos: 0 }
}

/// Who answers for a token that was changed: nobody any more, if nobody was asked who they are.
fn answering(who: &Who, held: &Token) -> String {
    if who.name().is_empty() { String::new() } else { held.by.clone() }
}

/// All that is shown of a token.
fn shown(token: &Token) -> proto::Token {
    let secret =
        |held: &HeldSecret| TokenSecret { created_at: Some(time(held.since)), expires_at: held.until.map(time) };
    proto::Token {
        name: token.name.to_string(),
        grants: token.grants.grants().iter().map(shown_grant).collect(),
        created_at: Some(time(token.since)),
        created_by: token.by.clone(),
        expires_at: token.until.map(time),
        secrets: token.secrets.iter().map(secret).collect(),
        revision: token.revision,
        certificates: token.certificates.iter().map(ToString::to_string).collect(),
        quotas: Some(namespaces::shown(&token.quota)),
        usage: None,
    }
}

fn shown_grant(grant: &access::Grant) -> proto::Grant {
    proto::Grant {
        namespace: grant.realm.namespace.to_string(),
        services: grant.realm.service.to_string(),
        permissions: grant.permissions.iter().map(|permission| to_proto(permission).into()).collect(),
    }
}

fn to_proto(permission: Permission) -> proto::Permission {
    match permission {
        Permission::Read => proto::Permission::Read,
        Permission::Register => proto::Permission::Register,
        Permission::Publish => proto::Permission::Publish,
        Permission::Deploy => proto::Permission::Deploy,
        Permission::Catalog => proto::Permission::Catalog,
        Permission::Operate => proto::Permission::Operate,
        Permission::Admin => proto::Permission::Admin,
    }
}

/// What is read of a request, and what is wrong with it.
#[derive(Default)]
struct Reading(Vec<Violation>);

impl Reading {
    fn refuse(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(Violation { field: field.into(), description: description.into() });
    }

    fn end(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Invalid(self.0)) }
    }

    fn pattern(&mut self, field: String, text: &str) -> Option<Pattern> {
        Pattern::parse(text).map_err(|fault| self.refuse(field, fault)).ok()
    }

    fn grant(&mut self, place: usize, given: &proto::Grant) -> Option<access::Grant> {
        let namespace = self.pattern(format!("grants[{place}].namespace"), &given.namespace);
        let services = if given.services.is_empty() { "*" } else { &given.services };
        let service = self.pattern(format!("grants[{place}].services"), services);
        if given.permissions.is_empty() {
            self.refuse(format!("grants[{place}].permissions"), "must not be empty");
        }
        let mut permissions = Vec::new();
        for (at, number) in given.permissions.iter().enumerate() {
            match Permission::ALL.into_iter().find(|permission| i32::from(to_proto(*permission)) == *number) {
                Some(permission) => permissions.push(permission),
                None => self.refuse(format!("grants[{place}].permissions[{at}]"), format!("{number} is no permission")),
            }
        }
        let realm = Realm { namespace: namespace?, service: service? };
        Some(access::Grant { realm, permissions: permissions.into_iter().collect() })
    }

    fn grants(&mut self, given: &[proto::Grant]) -> Grants {
        if given.len() > GRANTS_MAX {
            self.refuse("grants", format!("must be at most {GRANTS_MAX}, not {}", given.len()));
            return Grants::default();
        }
        Grants::new(given.iter().enumerate().filter_map(|(place, given)| self.grant(place, given)).collect::<Vec<_>>())
    }

    /// Each as it is shown in a certificate; none: nothing was said of them.
    fn certificates(&mut self, given: Option<CertificateNames>) -> Option<Vec<SmolStr>> {
        let given = given?.names;
        if given.len() > CERTIFICATES_MAX {
            self.refuse("certificates.names", format!("must be at most {CERTIFICATES_MAX}, not {}", given.len()));
            return None;
        }
        let mut names = Vec::new();
        for (place, name) in given.iter().enumerate() {
            match AlternativeName::parse(name) {
                Ok(name) => names.push(name.to_smolstr()),
                Err(fault) => self.refuse(format!("certificates.names[{place}]"), fault),
            }
        }
        Some(names)
    }

    /// Whole seconds, rounded up.
    fn seconds(&mut self, field: &str, given: Option<prost_types::Duration>, (least, most): (u64, u64)) -> Option<u64> {
        let given = given?;
        let span = std::time::Duration::try_from(given).ok();
        let seconds = span.map(|span| span.as_secs() + u64::from(span.subsec_nanos() > 0));
        let fits = seconds.filter(|seconds| (least..=most).contains(seconds));
        if fits.is_none() {
            self.refuse(field, format!("must be from {least} to {most} seconds"));
        }
        fits
    }

    fn name(&mut self, name: &str) {
        if let Some(fault) = token::fault_of_name(name) {
            self.refuse("name", fault);
        }
    }
}

/// The name of a token that is to be there.
fn named(name: &str) -> Result<(), Error> {
    let mut reading = Reading::default();
    reading.name(name);
    reading.end()
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let (who, deadline) = (self.gate.who(request.extensions())?, deadline::of(&request));
        let CreateTokenRequest { name, grants, ttl, certificates, quotas } = request.into_inner();
        let mut reading = Reading::default();
        reading.name(&name);
        if grants.is_empty() {
            reading.refuse("grants", "must not be empty");
        }
        let grants = reading.grants(&grants);
        let certificates = reading.certificates(certificates).unwrap_or_default();
        let ttl = reading.seconds("ttl", ttl, (1, TTL_MAX));
        reading.end()?;
        who.is_about_token(&name);
        let may_be_called = name != OPERATOR || who.may_everywhere(Permission::Admin);
        if !may_be_called || !self::grants(&who, &grants) {
            return Err(REFUSED.into());
        }
        let (now, secret) = (self.now(), draw()?);
        let token = Token {
            name: name.as_str().into(),
            grants,
            unknown: Vec::new(),
            secrets: vec![HeldSecret { hash: secret.hash(), since: now, until: None }],
            certificates,
            quota: quotas.map(namespaces::quota).unwrap_or_default(),
            since: now,
            by: who.name().to_owned(),
            until: ttl.map(|ttl| now + ttl),
            revision: 0,
        };
        let (token, revision) = match self.put(&token, 0, deadline).await {
            // That there is one of the name is for those to know who may see it.
            Err(Error::AlreadyExists { .. }) if self.held(&who, &name).is_err() => return Err(REFUSED.into()),
            done => done?,
        };
        Ok(Response::new(CreateTokenResponse { token, secret: secret.text(&name), revision }))
    }

    async fn get_token(&self, request: Request<GetTokenRequest>) -> Result<Response<GetTokenResponse>, Status> {
        let who = self.gate.who(request.extensions())?;
        let name = request.into_inner().name;
        named(&name)?;
        let token = Some(self.shown(&self.held(&who, &name)?));
        Ok(Response::new(GetTokenResponse { token, revision: self.handle.token(&name).1 }))
    }

    async fn list_tokens(&self, request: Request<ListTokensRequest>) -> Result<Response<ListTokensResponse>, Status> {
        let who = self.gate.who(request.extensions())?;
        let ListTokensRequest { prefix, limit, page_token } = request.into_inner();
        let after = URL_SAFE_NO_PAD.decode(&page_token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let after = after.ok_or_else(|| Error::invalid("page_token", "is not one that a list gave"))?;
        let limit = if limit == 0 { PAGE_MAX } else { PAGE_MAX.min(limit as usize) };
        let (documents, revision) = {
            let registry = self.handle.hub().registry();
            (registry.tokens().clone(), registry.revision())
        };
        let all = documents.values().filter(|document| document.key.name.as_str() > after.as_str());
        let mut tokens = Vec::new();
        let mut next_page_token = String::new();
        for token in all.filter(|document| document.key.name.starts_with(&prefix)).filter_map(|held| Token::of(held)) {
            if !administers(&who, &token) {
                continue;
            }
            if tokens.len() == limit {
                let last = tokens.last().map_or("", |last: &proto::Token| last.name.as_str());
                next_page_token = URL_SAFE_NO_PAD.encode(last);
                break;
            }
            tokens.push(self.shown(&token));
        }
        Ok(Response::new(ListTokensResponse { tokens, next_page_token, revision }))
    }

    async fn update_token(
        &self,
        request: Request<UpdateTokenRequest>,
    ) -> Result<Response<UpdateTokenResponse>, Status> {
        let (who, deadline) = (self.gate.who(request.extensions())?, deadline::of(&request));
        let UpdateTokenRequest { name, grants, ttl, expected_revision, certificates, quotas, without_expiry } =
            request.into_inner();
        let mut reading = Reading::default();
        reading.name(&name);
        let (keeps, grants) = (grants.is_empty(), reading.grants(&grants));
        let certificates = reading.certificates(certificates);
        let ttl = reading.seconds("ttl", ttl, (1, TTL_MAX));
        if without_expiry && ttl.is_some() {
            reading.refuse("without_expiry", "contradicts ttl");
        }
        reading.end()?;
        let held = self.held(&who, &name)?;
        if !self::grants(&who, &grants) {
            return Err(REFUSED.into());
        }
        let expected = if expected_revision == 0 { held.revision } else { expected_revision };
        let token = Token {
            grants: if keeps { held.grants.clone() } else { grants },
            unknown: if keeps { held.unknown.clone() } else { Vec::new() },
            until: ttl.map(|ttl| self.now() + ttl).or(held.until.filter(|_| !without_expiry)),
            certificates: certificates.unwrap_or_else(|| held.certificates.clone()),
            quota: quotas.map_or(held.quota, namespaces::quota),
            by: answering(&who, &held),
            ..held
        };
        let (token, revision) = self.put(&token, expected, deadline).await?;
        Ok(Response::new(UpdateTokenResponse { token, revision }))
    }

    async fn rotate_token(
        &self,
        request: Request<RotateTokenRequest>,
    ) -> Result<Response<RotateTokenResponse>, Status> {
        let (who, deadline) = (self.gate.who(request.extensions())?, deadline::of(&request));
        let RotateTokenRequest { name, overlap } = request.into_inner();
        let mut reading = Reading::default();
        reading.name(&name);
        let overlap = reading.seconds("overlap", overlap, (0, OVERLAP_MAX)).unwrap_or(OVERLAP);
        reading.end()?;
        let (held, secret) = (self.held(&who, &name)?, draw()?);
        let rotated = held.rotated(secret.hash(), self.now(), overlap);
        let rotated = Token { by: answering(&who, &held), ..rotated };
        if rotated.secrets.len() > SECRETS_MAX {
            // Those before were promised their time.
            let (maximum, usage) = (SECRETS_MAX as u64, rotated.secrets.len() as u64);
            return Err(Error::Limit { limit: "max_token_secrets", maximum, usage }.into());
        }
        let (token, revision) = self.put(&rotated, held.revision, deadline).await?;
        Ok(Response::new(RotateTokenResponse { token, secret: secret.text(&name), revision }))
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenResponse>, Status> {
        let (who, deadline) = (self.gate.who(request.extensions())?, deadline::of(&request));
        let name = request.into_inner().name;
        named(&name)?;
        let held = self.held(&who, &name)?;
        let write = Write { key: token::key(&name), body: None, expected: held.revision };
        let (_, revision) = self.handle.write(write, deadline).await?;
        Ok(Response::new(RevokeTokenResponse { revision }))
    }
    async fn get_namespace(
        &self,
        request: Request<GetNamespaceRequest>,
    ) -> Result<Response<GetNamespaceResponse>, Status> {
        let who = self.gate.who(request.extensions())?;
        Ok(Response::new(self.namespace(&who, &request.into_inner().name)?))
    }

    async fn list_namespaces(
        &self,
        request: Request<ListNamespacesRequest>,
    ) -> Result<Response<ListNamespacesResponse>, Status> {
        let who = self.gate.who(request.extensions())?;
        Ok(Response::new(self.namespaces(&who, request.into_inner())?))
    }

    async fn update_namespace(
        &self,
        request: Request<UpdateNamespaceRequest>,
    ) -> Result<Response<UpdateNamespaceResponse>, Status> {
        let (who, deadline) = (self.gate.who(request.extensions())?, deadline::of(&request));
        Ok(Response::new(self.set_namespace(&who, request.into_inner(), deadline).await?))
    }
}
