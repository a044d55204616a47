//! What becomes of a subscription when its reader may see something else than before, or nothing any more. Whose rights
//! those are is not known here.

use super::{Error, Filter, FilterSet, Principal, ResetReason, Subscriptions, WatchPermit};

impl Subscriptions {
    /// From now on it is this principal who subscribes.
    pub fn set_whose(&mut self, principal: Principal) {
        self.whose = principal;
    }

    /// A place for what is of `filters`: the one of what had its id before, if there was one.
    pub(super) fn place(&self, held: Option<WatchPermit>, filters: &FilterSet) -> Result<WatchPermit, Error> {
        let Some(mut permit) = held else { return self.hub.permit(&self.whose, filters.namespaces()) };
        self.hub.exchange(&mut permit, &self.whose, filters.namespaces())?;
        Ok(permit)
    }

    /// Lets the subscription also yield what is published for services that `filters` match, from now on.
    pub fn add_published(&mut self, id: &str, filters: Vec<Filter>) {
        let Some(part) = self.by_id.find(id, &self.parts).filter(|_| !filters.is_empty()) else { return };
        if let Some(Some(subscription)) = self.parts.get_mut(part as usize) {
            subscription.published = Some(Box::new(self.hub.board().open(filters, &self.listener, part)));
        }
    }

    /// From now on a subscription is of other filters: it begins anew with a reset. What was read for it and not queued yet
    /// is dropped.
    pub fn refocus(&mut self, id: &str, filters: FilterSet, published: Vec<Filter>) {
        let Some(part) = self.by_id.find(id, &self.parts) else { return };
        let Some(Some(subscription)) = self.parts.get_mut(part as usize) else { return };
        if *subscription.feed.matcher().set() == filters {
            return;
        }
        self.hub.reseat(&mut subscription.permit, &self.whose, filters.namespaces());
        self.listener.begins_anew(subscription.listening, subscription.cursor);
        self.hub.log().ignore(subscription.feed.matcher().scopes(), subscription.listening);
        subscription.feed = self.hub.feed(filters);
        // Listening comes before looking, so that nothing falls between.
        subscription.listening = self.hub.log().follow(subscription.feed.matcher(), &self.listener, part);
        subscription.published = None;
        self.forget(part);
        self.reset(part, ResetReason::SelectorsChanged, 0);
        self.add_published(id, published);
    }

    /// Ends a subscription that may not go on, or that what was to replace it could not; `error` is an encoded
    /// `google.rpc.Status`.
    pub fn end(&mut self, id: &str, error: &[u8]) {
        if let Some(part) = self.by_id.remove(id, &self.parts) {
            self.remove(part);
        }
        self.refuse(id, error);
    }
}
