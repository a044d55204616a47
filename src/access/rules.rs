//! The rule of every call and of every path: what a caller needs to be let in at all, and what the call may then reach.
//! One table for gRPC in all its forms and for HTTP; a path without a rule is not served.

use http::Method;

use super::{Grants, Permission};

/// Who is let in at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Everybody: it shows nothing of what is registered.
    Open,
    /// Whoever may do anything anywhere.
    Known,
    /// Who has one of these permissions somewhere.
    Any(&'static [Permission]),
    /// Who has this permission everywhere.
    Everywhere(Permission),
}

/// How far a call that was let in reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Nothing that belongs to a namespace.
    Nothing,
    /// What it names, if the caller has the permission for that; else it is refused.
    Named,
    /// What the caller may see of what it means.
    Narrowed,
    /// What a lease token stands for: that is judged, whoever sends it.
    Lease,
}

/// The rule of a call or a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Who is let in.
    pub entry: Entry,
    /// How far it reaches.
    pub reach: Reach,
}

const fn rule(entry: Entry, reach: Reach) -> Rule {
    Rule { entry, reach }
}

/// Of what shows nothing of what is registered.
pub const OPEN: Rule = rule(Entry::Open, Reach::Nothing);
const KNOWN: Rule = rule(Entry::Known, Reach::Nothing);
const READ: Entry = Entry::Any(&[Permission::Read]);
const REGISTER: Entry = Entry::Any(&[Permission::Register]);
const DEPLOY: Entry = Entry::Any(&[Permission::Deploy]);
const CATALOG: Entry = Entry::Any(&[Permission::Catalog]);
/// In all parts of the registry that a token speaks of.
const ADMIN: Rule = rule(Entry::Any(&[Permission::Admin]), Reach::Named);
/// Health of the server itself is everybody's; that of a service is judged by its name.
const HEALTH: Rule = rule(Entry::Open, Reach::Named);

impl Rule {
    /// Whether a caller with these grants is let in, or the permission that is missing.
    ///
    /// # Errors
    /// The first of the permissions that would do; none: any would.
    pub fn admits(&self, grants: &Grants) -> Result<(), Option<Permission>> {
        match self.entry {
            Entry::Open => Ok(()),
            Entry::Known if Permission::ALL.into_iter().any(|permission| grants.anywhere(permission)) => Ok(()),
            Entry::Known => Err(None),
            Entry::Any(permissions) if permissions.iter().any(|permission| grants.anywhere(*permission)) => Ok(()),
            Entry::Any(permissions) => Err(permissions.first().copied()),
            Entry::Everywhere(permission) if grants.everywhere(permission) => Ok(()),
            Entry::Everywhere(permission) => Err(Some(permission)),
        }
    }
}

/// Every call, by the path of gRPC.
pub const RPCS: &[(&str, Rule)] = &[
    // The hot ones first: the table is read from its beginning.
    ("/onair.v1.Registry/Heartbeat", rule(REGISTER, Reach::Lease)),
    ("/onair.v1.Registry/Lookup", rule(READ, Reach::Narrowed)),
    ("/onair.v1.Registry/HeartbeatStream", rule(REGISTER, Reach::Lease)),
    ("/onair.v1.Registry/Register", rule(REGISTER, Reach::Named)),
    // By key it is an operator's.
    ("/onair.v1.Registry/Deregister", rule(Entry::Any(&[Permission::Register, Permission::Operate]), Reach::Named)),
    ("/onair.v1.Registry/Drain", rule(Entry::Any(&[Permission::Register, Permission::Operate]), Reach::Named)),
    ("/onair.v1.Registry/GetInstance", rule(READ, Reach::Named)),
    ("/onair.v1.Registry/ListServices", rule(READ, Reach::Narrowed)),
    ("/onair.v1.Registry/Resolve", rule(READ, Reach::Named)),
    ("/onair.v1.Registry/Publish", rule(Entry::Any(&[Permission::Publish]), Reach::Named)),
    ("/onair.v1.Registry/Watch", rule(READ, Reach::Narrowed)),
    ("/onair.v1.Registry/Subscribe", rule(READ, Reach::Narrowed)),
    ("/onair.v1.Registry/GetServerInfo", KNOWN),
    ("/onair.v1.Deployments/CreateBackend", rule(DEPLOY, Reach::Named)),
    ("/onair.v1.Deployments/GetBackend", rule(READ, Reach::Named)),
    ("/onair.v1.Deployments/ListBackends", rule(READ, Reach::Narrowed)),
    ("/onair.v1.Deployments/UpdateBackend", rule(DEPLOY, Reach::Named)),
    ("/onair.v1.Deployments/DeleteBackend", rule(DEPLOY, Reach::Named)),
    ("/onair.v1.Deployments/CreateFrontend", rule(DEPLOY, Reach::Named)),
    ("/onair.v1.Deployments/GetFrontend", rule(READ, Reach::Named)),
    ("/onair.v1.Deployments/ListFrontends", rule(READ, Reach::Narrowed)),
    ("/onair.v1.Deployments/UpdateFrontend", rule(DEPLOY, Reach::Named)),
    ("/onair.v1.Deployments/DeleteFrontend", rule(DEPLOY, Reach::Named)),
    ("/onair.v1.Deployments/Switch", rule(DEPLOY, Reach::Named)),
    ("/onair.v1.Deployments/SwitchBack", rule(DEPLOY, Reach::Named)),
    ("/onair.v1.Deployments/GetFrontendHistory", rule(READ, Reach::Named)),
    ("/onair.v1.Catalog/CreateServiceType", rule(CATALOG, Reach::Named)),
    ("/onair.v1.Catalog/GetServiceType", rule(READ, Reach::Named)),
    ("/onair.v1.Catalog/ListServiceTypes", rule(READ, Reach::Narrowed)),
    ("/onair.v1.Catalog/PutServiceType", rule(CATALOG, Reach::Named)),
    ("/onair.v1.Catalog/DeleteServiceType", rule(CATALOG, Reach::Named)),
    ("/onair.v1.Catalog/CreateApplication", rule(CATALOG, Reach::Named)),
    ("/onair.v1.Catalog/GetApplication", rule(READ, Reach::Named)),
    ("/onair.v1.Catalog/ListApplications", rule(READ, Reach::Narrowed)),
    ("/onair.v1.Catalog/PutApplication", rule(CATALOG, Reach::Named)),
    ("/onair.v1.Catalog/DeleteApplication", rule(CATALOG, Reach::Named)),
    ("/onair.v1.Catalog/AddDependency", rule(CATALOG, Reach::Named)),
    ("/onair.v1.Catalog/RemoveDependency", rule(CATALOG, Reach::Named)),
    ("/onair.v1.Catalog/ListCatalogVersions", rule(READ, Reach::Narrowed)),
    ("/onair.v1.Catalog/GetStartOrder", rule(READ, Reach::Narrowed)),
    ("/onair.v1.Catalog/GetDependencyReport", rule(READ, Reach::Narrowed)),
    ("/onair.v1.Catalog/WaitReady", rule(READ, Reach::Named)),
    ("/onair.v1.Catalog/GetCatalogStatus", rule(READ, Reach::Narrowed)),
    ("/onair.v1.Catalog/ListPorts", rule(READ, Reach::Narrowed)),
    ("/onair.v1.Catalog/ImportApplications", rule(CATALOG, Reach::Named)),
    ("/onair.v1.Catalog/ImportApplicationsStream", rule(CATALOG, Reach::Named)),
    ("/onair.v1.Catalog/ListCatalog", rule(READ, Reach::Narrowed)),
    ("/grpc.health.v1.Health/Check", HEALTH),
    ("/grpc.health.v1.Health/Watch", HEALTH),
    // What the sources of onair say anyway.
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", OPEN),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", OPEN),
    // What benchmarks compare with; it knows nothing.
    ("/onair.bench.v1.Floor/Echo", OPEN),
    ("/onair.v1.Admin/CreateToken", ADMIN),
    ("/onair.v1.Admin/GetToken", ADMIN),
    ("/onair.v1.Admin/ListTokens", rule(Entry::Any(&[Permission::Admin]), Reach::Narrowed)),
    ("/onair.v1.Admin/UpdateToken", ADMIN),
    ("/onair.v1.Admin/RotateToken", ADMIN),
    ("/onair.v1.Admin/RevokeToken", ADMIN),
    ("/onair.v1.Admin/GetNamespace", rule(READ, Reach::Named)),
    ("/onair.v1.Admin/ListNamespaces", rule(READ, Reach::Narrowed)),
    // Everywhere: a quota is none for who may change it.
    ("/onair.v1.Admin/UpdateNamespace", ADMIN),
];

/// The paths of HTTP that stand for no call: by their first segment or, where they have more, as they are. Then what it
/// takes to read there, and to change something.
pub const HTTP: &[(&str, Rule, Rule)] = &[
    ("/healthz", OPEN, OPEN),
    ("/readyz", OPEN, OPEN),
    ("/docs", OPEN, OPEN),
    ("/v1/openapi.json", OPEN, OPEN),
    // Numbers of the registry as a whole, without names.
    ("/metrics", rule(Entry::Everywhere(Permission::Read), Reach::Nothing), KNOWN),
    ("/status", KNOWN, KNOWN),
    ("/registrations", rule(READ, Reach::Narrowed), rule(REGISTER, Reach::Named)),
    ("/backends", rule(READ, Reach::Named), rule(DEPLOY, Reach::Named)),
    ("/frontends", rule(READ, Reach::Named), rule(DEPLOY, Reach::Named)),
    ("/applications", rule(READ, Reach::Named), rule(CATALOG, Reach::Named)),
    ("/services", rule(READ, Reach::Named), rule(CATALOG, Reach::Named)),
    // Each of them stands for a call, and has that call's rule besides.
    ("/v1", KNOWN, KNOWN),
];

/// The rule of a call, by the path of gRPC.
#[must_use]
pub fn of_rpc(path: &str) -> Option<&'static Rule> {
    RPCS.iter().find(|(known, _)| *known == path).map(|(_, rule)| rule)
}

/// The rule of a request of HTTP. None: there is no such path.
#[must_use]
pub fn of_http(method: &Method, path: &str) -> Option<&'static Rule> {
    let of = |known: &&(&str, Rule, Rule)| {
        let rest = path.strip_prefix(known.0);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let (_, reads, changes) = HTTP.iter().find(of)?;
    Some(if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) { reads } else { changes })
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;

    /// Every descriptor that is served.
    fn served() -> DescriptorPool {
        let mut pool = DescriptorPool::new();
        for set in [
            crate::proto::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            pool.decode_file_descriptor_set(set).expect("descriptors");
        }
        pool
    }

    #[test]
    fn every_call_has_a_rule() {
        let mut calls = vec!["/onair.bench.v1.Floor/Echo".to_owned()];
        for service in served().services() {
            calls.extend(service.methods().map(|method| format!("/{}/{}", service.full_name(), method.name())));
        }
        let mut ruled: Vec<&str> = RPCS.iter().map(|(path, _)| *path).collect();
        for call in &calls {
            assert!(of_rpc(call).is_some(), "{call} has no rule: say in RPCS who may call it");
        }
        ruled.retain(|path| !calls.iter().any(|call| call == path));
        assert!(ruled.is_empty(), "rules of what is not there: {ruled:?}");
    }

    /// The names say by themselves what a call does; a rule that says otherwise is a mistake.
    #[test]
    fn who_changes_something_needs_more_than_to_read() {
        for (path, rule) in RPCS {
            let name = path.rsplit('/').next().unwrap_or_default();
            let reads = ["Get", "List", "Lookup", "Resolve", "Wait", "Watch", "Subscribe"]
                .iter()
                .any(|verb| name.starts_with(verb));
            let Entry::Any(permissions) = rule.entry else { continue };
            // Who may see a token may change it.
            let reads = reads && !(name.ends_with("Token") || name.ends_with("Tokens"));
            assert_eq!(permissions.contains(&Permission::Read), reads, "{path}");
            assert!(!reads || rule.reach != Reach::Lease, "{path}");
        }
    }

    #[test]
    fn paths_of_http() {
        let read = |path: &str| of_http(&Method::GET, path).map(|rule| rule.entry);
        for (path, entry) in [
            ("/metrics", Some(Entry::Everywhere(Permission::Read))),
            ("/readyz", Some(Entry::Open)),
            ("/v1/openapi.json", Some(Entry::Open)),
            ("/v1/namespaces/a/services", Some(Entry::Known)),
            ("/registrations/web/1.0.0", Some(READ)),
            ("/registrationsx", None),
            ("/", None),
            ("/secret", None),
        ] {
            assert_eq!(read(path), entry, "{path}");
        }
        assert_eq!(of_http(&Method::POST, "/registrations").map(|rule| rule.entry), Some(REGISTER));
        assert_eq!(
            of_http(&Method::from_bytes(b"BREW").expect("a method"), "/backends/x").map(|rule| rule.entry),
            Some(DEPLOY)
        );
    }

    #[test]
    fn a_rule_says_which_permission_is_missing() {
        let grants = |text: &str| Grants::new([super::super::Grant::parse(text).expect("a grant")]);
        let heartbeat = of_rpc("/onair.v1.Registry/Heartbeat").expect("a rule");
        assert_eq!(heartbeat.admits(&grants("a=read")), Err(Some(Permission::Register)));
        assert_eq!(heartbeat.admits(&grants("a=register")), Ok(()));
        assert_eq!((KNOWN.admits(&grants("a=read")), KNOWN.admits(&Grants::default())), (Ok(()), Err(None)));
        assert_eq!(OPEN.admits(&Grants::default()), Ok(()));
    }
}
