//! The catalog's rules, against tables and against a second implementation of them.

mod allocation;
mod drafts;
mod graph;
mod import;
mod lists;
mod naive;
mod state;

use super::*;

/// A catalog with the seeds and these types that have no place of their own.
fn catalog(types: &[&'static str]) -> Catalog {
    let mut catalog = Catalog::seeded();
    for id in types {
        let service_type = ServiceType { id: SmolStr::new_static(id), default_port: 4000, offset: None };
        catalog.put_type(service_type.into());
    }
    catalog
}

fn draft(id: &str, service: &str) -> ApplicationDraft {
    ApplicationDraft { id: id.to_owned(), service: Some(service.to_owned()), ..ApplicationDraft::default() }
}

/// Does what a draft comes to, and gives the application.
fn put(catalog: &mut Catalog, rules: &PortRules, draft: &ApplicationDraft) -> Result<Arc<Application>, Refusal> {
    let application = match catalog.put(rules, draft)? {
        Drafted::Same(application) => return Ok(application),
        Drafted::New(application) => Arc::new(application),
    };
    catalog.put_application(Arc::clone(&application));
    Ok(application)
}
