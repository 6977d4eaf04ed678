//! The two layers of the project-wide place against a model that says in a few lines what must be selected.

use std::sync::{Arc, LazyLock};

use proptest::prelude::*;

use super::support::{Egret, Material, Shelf, declaring, pattern, settings};
use crate::config::Settings;
use crate::control::{ControlError, Drain, Properties};
use crate::domain::{CertificateId, Holder};
use crate::identity::Phase;

const ANY: &str = "https://any.test";
const MATERIALS: usize = 5;

static POOL: LazyLock<Vec<Material>> =
    LazyLock::new(|| (0..MATERIALS).map(|n| Material::new(&format!("m{n}"))).collect());

#[derive(Debug, Clone)]
enum Step {
    Upload(usize),
    Hold(usize),
    /// The zone certificate at this place of the list, from its end, through either dialect.
    Delete(usize, bool),
    /// What is bound, through either dialect.
    DeleteOwn(bool),
    Switch(bool),
    BindNone,
    BindAgain,
    BindZone(usize),
    Unbind,
    Declare(Option<usize>),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let nth = || 0..MATERIALS;
    prop_oneof![
        3 => nth().prop_map(Step::Upload),
        4 => nth().prop_map(Step::Hold),
        2 => (nth(), any::<bool>()).prop_map(|(n, other)| Step::Delete(n, other)),
        1 => any::<bool>().prop_map(Step::DeleteOwn),
        3 => any::<bool>().prop_map(Step::Switch),
        1 => Just(Step::BindNone),
        1 => Just(Step::BindAgain),
        1 => nth().prop_map(Step::BindZone),
        1 => Just(Step::Unbind),
        1 => proptest::option::of(nth()).prop_map(Step::Declare),
        1 => Just(Step::Restart),
    ]
}

/// What is bound: a certificate by the name of its material, or *none*.
#[derive(Debug, Clone, PartialEq)]
enum Own {
    Uploaded(usize),
    Zone(usize),
    None,
}

#[derive(Debug, Default)]
struct Model {
    /// What is bound by hand, and when.
    own: Option<(Own, u32)>,
    /// What the zone holds, oldest first, and since when.
    zone: Vec<(usize, u32)>,
    enabled: bool,
    declared: Option<usize>,
    clock: u32,
}

impl Model {
    fn tick(&mut self) -> u32 {
        self.clock += 1;
        self.clock
    }

    fn newest(&self) -> Option<(usize, u32)> {
        self.zone.last().copied().filter(|_| self.enabled)
    }

    /// Whether what is bound by hand came after all that the zone holds, switched on or off.
    fn own_is_latest(&self) -> bool {
        self.own.as_ref().is_some_and(|(_, at)| self.zone.last().is_none_or(|(_, since)| since < at))
    }

    /// Whether what is bound by hand is what is selected.
    fn own_is_in_force(&self) -> bool {
        self.own.as_ref().is_some_and(|(own, at)| {
            let is_same = |newest: usize| *own == Own::Zone(newest);
            self.newest().is_none_or(|(newest, since)| is_same(newest) || since < *at)
        })
    }

    fn presented(&self) -> String {
        let name = |n: usize| format!("m{n}");
        if let Some(declared) = self.declared {
            return format!("d{declared}");
        }
        match (&self.own, self.newest()) {
            (Some((own, _)), _) if self.own_is_in_force() => match own {
                Own::Uploaded(n) | Own::Zone(n) => name(*n),
                Own::None => "none".to_owned(),
            },
            (_, Some((newest, _))) => name(newest),
            _ => "nothing".to_owned(),
        }
    }
}

struct Scene {
    shelf: Arc<Shelf>,
    egret: Egret,
    folder: tempfile::TempDir,
    model: Model,
}

impl Scene {
    fn settings(&self) -> Settings {
        static DECLARED: LazyLock<Vec<Material>> =
            LazyLock::new(|| (0..MATERIALS).map(|n| Material::new(&format!("d{n}"))).collect());
        match self.model.declared {
            Some(n) => declaring(self.folder.path(), "*", &DECLARED[n]),
            None => settings(),
        }
    }

    /// The id of a certificate that the zone holds, by its material.
    fn zone_id(&self, n: usize) -> CertificateId {
        let snapshot = self.egret.project("default").snapshot();
        let is_it = |id: &CertificateId| {
            let info = snapshot.certificate(id).expect("held").info.clone();
            info.subject == format!("CN=m{n}")
        };
        let id = snapshot.roster().of(Holder::Zone).map(|held| held.id.clone()).find(is_it);
        id.expect("the model says that it is held")
    }

    fn own_id(&self) -> Option<CertificateId> {
        let binding = self.egret.project("default").snapshot().binding(&pattern("*"))?;
        binding.target.certificate_id().cloned()
    }

    async fn take(&mut self, step: &Step) {
        let project = self.egret.project("default");
        let (control, any) = (self.egret.control.clone(), pattern("*"));
        let is_declared = self.model.declared.is_some();
        let before = self.egret.select(ANY);
        let mut started = false;
        match step {
            Step::Upload(n) => {
                let done = self.egret.upload("*", &POOL[*n]).await;
                assert_eq!(done.is_err(), is_declared, "{done:?}");
                // The same material is told by digest, and a list's has no CA in it.
                let same = self.model.own.as_ref().is_some_and(|(own, _)| *own == Own::Uploaded(*n));
                if done.is_ok() && !(same && self.model.own_is_latest()) {
                    self.model.own = Some((Own::Uploaded(*n), self.model.tick()));
                }
            }
            Step::Hold(n) => {
                let held = self.model.zone.iter().any(|(other, _)| other == n);
                match self.egret.hold(Holder::Zone, &POOL[*n]).await {
                    Ok(_) => {
                        assert!(!held);
                        assert!(!is_declared || !self.model.enabled);
                        let now = self.model.tick();
                        self.model.zone.push((*n, now));
                    }
                    Err(ControlError::Duplicate(id)) => assert!(held && id == self.zone_id(*n)),
                    Err(ControlError::Declared(..)) => assert!(is_declared && self.model.enabled),
                    Err(other) => panic!("{other:?}"),
                }
            }
            Step::Delete(at, other_dialect) => {
                let Some(at) = self.model.zone.len().checked_sub(at + 1) else { return };
                let n = self.model.zone[at].0;
                let id = self.zone_id(n);
                if *other_dialect {
                    control.delete(&project, &id, Drain::Grace).await.expect("deleted");
                } else {
                    self.egret.release(Holder::Zone, &id).await.expect("always allowed");
                }
                self.model.zone.remove(at);
                self.model.own.take_if(|(own, _)| *own == Own::Zone(n));
            }
            Step::DeleteOwn(other_dialect) => {
                let Some((Own::Uploaded(_), _)) = self.model.own else { return };
                let Some(id) = self.own_id().filter(|_| !is_declared) else { return };
                if *other_dialect {
                    control.delete(&project, &id, Drain::Grace).await.expect("deleted");
                } else {
                    self.egret.release(Holder::Zone, &id).await.expect("nothing else names it");
                }
                self.model.own = None;
            }
            Step::Switch(enabled) => {
                let refused = control.set_zone(&project, *enabled).await.is_err();
                assert_eq!(refused, *enabled && !self.model.enabled && is_declared);
                if !refused {
                    self.model.enabled = *enabled;
                }
            }
            Step::BindNone | Step::BindAgain | Step::BindZone(_) => {
                let (own, id) = match step {
                    Step::BindNone => (Own::None, None),
                    Step::BindZone(at) => {
                        let Some(at) = self.model.zone.len().checked_sub(at + 1) else { return };
                        let n = self.model.zone[at].0;
                        (Own::Zone(n), Some(self.zone_id(n)))
                    }
                    _ => match &self.model.own {
                        Some((own, _)) if !is_declared => (own.clone(), self.own_id()),
                        _ => return,
                    },
                };
                let done = control.bind(&project, any, id.as_ref(), Properties::default()).await;
                assert_eq!(done.is_err(), is_declared, "{done:?}");
                let same = self.model.own.as_ref().is_some_and(|(now, _)| *now == own);
                if done.is_ok() && !(same && self.model.own_is_latest()) {
                    self.model.own = Some((own, self.model.tick()));
                }
            }
            Step::Unbind => {
                let done = control.unbind(&project, &any).await;
                assert_eq!(done.is_ok(), !is_declared && self.model.own.is_some(), "{done:?}");
                if done.is_ok() {
                    self.model.own = None;
                }
            }
            Step::Declare(n) => {
                self.model.declared = *n;
                self.egret.reload(&self.settings()).await;
            }
            Step::Restart => {
                self.egret = Egret::start(&self.shelf, &self.settings()).await;
                started = true;
            }
        }
        assert_eq!(self.egret.presents(ANY), self.model.presented(), "{step:?}: {:?}", self.model);
        let after = self.egret.select(ANY);
        let snapshot = self.egret.project("default").snapshot();
        for certificate in snapshot.certificates() {
            assert!(certificate.objects().all(|tls| tls.life().is_active()), "{step:?}: it may be used at any time");
        }
        let is_other = before.tls.serial() != after.tls.serial();
        if !started && is_other && before.tls.identity().is_some() {
            assert_ne!(before.tls.life().phase(), Phase::Active, "{step:?}: what is selected no more ends");
        }
        if !started && before.tls.identity().is_some() && !is_other {
            assert!(before.tls.life().is_active(), "{step:?}: what is selected as before goes on");
        }
        assert!(self.egret.control.report().quarantined.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn what_is_selected_is_what_the_model_says(steps in proptest::collection::vec(step(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let shelf = Shelf::new();
            let egret = Egret::start(&shelf, &settings()).await;
            let folder = tempfile::tempdir().expect("a folder");
            let mut scene = Scene { shelf, egret, folder, model: Model::default() };
            for step in &steps {
                scene.take(step).await;
            }
        });
    }
}

#[tokio::test]
async fn the_same_upload_again_changes_nothing_unless_a_zone_certificate_covers_it() {
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &settings()).await;
    let (project, own) = (egret.project("default"), Material::new("own"));
    let first = egret.upload("*", &own).await.expect("uploaded").certificate;
    egret.set_zone(true).await;
    let revision = project.snapshot().revision();
    assert!(egret.upload("*", &own).await.expect("uploaded").updated);
    assert_eq!(project.snapshot().revision(), revision, "nothing covers it");
    egret.held(Holder::Zone, "zone").await;
    let zone = egret.select(ANY).tls;
    zone.life().opened();
    let again = egret.control.upload(&project, own.upload("*"), Drain::Now).await.expect("uploaded");
    assert_eq!((again.updated, &again.certificate.info.id), (true, &first.info.id));
    assert_eq!((egret.presents(ANY), zone.life().phase()), ("own".to_owned(), Phase::Gone), "at once, as it was asked");
    assert_eq!(Egret::start(&shelf, &settings()).await.presents(ANY), "own");
}
