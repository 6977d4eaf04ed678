//! The query of a request in this dialect: pages, and filters that may be given several times.

use axum::extract::FromRequestParts;
use http::request::Parts;
use utoipa::IntoParams;

use super::envelope::ResultInfo;
use crate::api::problem::Problem;

/// A query. Parameters that an endpoint does not know are ignored.
#[derive(Debug)]
pub(in crate::api) struct Asked(Vec<(String, String)>);

/// Which part of a list is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paging {
    page: usize,
    /// `None`: the list is one page.
    per_page: Option<usize>,
}

/// Which part of a list is wanted.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documentation; handlers read `Asked`")]
pub(in crate::api) struct PagingQuery {
    /// The page, from 1; the pages behind the last one are empty
    #[param(nullable = false, minimum = 1, maximum = 1_000_000_000)]
    page: Option<u32>,
    /// Entries of a page; left out: the list is one page
    #[param(nullable = false, minimum = 1, maximum = 1_000_000_000)]
    per_page: Option<u32>,
}

/// The largest number that a page or its size may be.
const MAX_NUMBER: usize = 1_000_000_000;

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let read = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        let axum::extract::Query(pairs) = read.map_err(|_| Problem::bad_request("the query is malformed"))?;
        Ok(Self(pairs))
    }
}

impl Asked {
    /// The value of a parameter that may be given once; an empty one is none.
    ///
    /// # Errors
    /// 400 when it is given twice.
    pub(super) fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.0.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (value, None) => Ok(value.filter(|v| !v.is_empty())),
            _ => Err(Problem::bad_request(format!("{name}: is given twice; give it once"))),
        }
    }

    /// The values of a parameter that may be given several times, or once with commas between them.
    pub(super) fn several<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let values = self.0.iter().filter(move |(n, _)| n == name);
        values.flat_map(|(_, value)| value.split(',')).map(str::trim).filter(|value| !value.is_empty())
    }

    /// One of these words, if it is there.
    ///
    /// # Errors
    /// 400 for another.
    pub(super) fn word(&self, name: &str, words: &[&'static str]) -> Result<Option<&'static str>, Problem> {
        let Some(given) = self.one(name)? else { return Ok(None) };
        match words.iter().find(|word| **word == given) {
            Some(word) => Ok(Some(word)),
            None => Err(Problem::bad_request(format!("{name}: is none of {}; give one of them", words.join(", ")))),
        }
    }

    /// Which part of the list is asked for.
    ///
    /// # Errors
    /// 400 for what is no page.
    pub(super) fn paging(&self) -> Result<Paging, Problem> {
        let number = |name: &str| match self.one(name)? {
            None => Ok(None),
            Some(text) => match text.parse().ok().filter(|n| (1..=MAX_NUMBER).contains(n)) {
                Some(number) => Ok(Some(number)),
                None => Err(Problem::bad_request(format!("{name}: must be a whole number from 1 to {MAX_NUMBER}"))),
            },
        };
        Ok(Paging { page: number("page")?.unwrap_or(1), per_page: number("per_page")? })
    }
}

impl Paging {
    /// That part of `all`.
    pub(super) fn cut<T>(self, all: Vec<T>) -> (Vec<T>, ResultInfo) {
        let total_count = all.len();
        let per_page = self.per_page.unwrap_or_else(|| total_count.max(1));
        let before = (self.page - 1).saturating_mul(per_page);
        let part: Vec<T> = all.into_iter().skip(before).take(per_page).collect();
        let info = ResultInfo {
            count: part.len(),
            page: self.page,
            per_page,
            total_count,
            total_pages: total_count.div_ceil(per_page),
        };
        (part, info)
    }
}

/// A filter over names: a text, or one of the vendor's operators before it (`contains:pay`).
#[derive(Debug)]
pub(super) struct NameFilter {
    operator: &'static str,
    exact_case: bool,
    text: String,
}

impl NameFilter {
    /// Reads `name`, `operator:name` or `operator_case_sensitive:name`.
    pub(super) fn read(text: &str) -> Self {
        for operator in ["equal", "not_equal", "starts_with", "ends_with", "contains"] {
            let Some(rest) = text.strip_prefix(operator) else { continue };
            if let Some(text) = rest.strip_prefix(':') {
                return Self { operator, exact_case: false, text: text.to_lowercase() };
            }
            if let Some(text) = rest.strip_prefix("_case_sensitive:") {
                return Self { operator, exact_case: true, text: text.to_owned() };
            }
        }
        Self { operator: "equal", exact_case: false, text: text.to_lowercase() }
    }

    /// Whether a name is meant.
    pub(super) fn takes(&self, name: &str) -> bool {
        let folded = if self.exact_case { name.to_owned() } else { name.to_lowercase() };
        match self.operator {
            "not_equal" => folded != self.text,
            "starts_with" => folded.starts_with(&self.text),
            "ends_with" => folded.ends_with(&self.text),
            "contains" => folded.contains(&self.text),
            _ => folded == self.text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(query: &str) -> Asked {
        let (mut parts, ()) = http::Request::builder().uri(format!("/x?{query}")).body(()).unwrap().into_parts();
        Asked::from_request_parts(&mut parts, &()).await.unwrap()
    }

    #[tokio::test]
    async fn gives_the_whole_list_and_nothing_behind_it_unless_pages_are_asked_for() {
        let cut = async |query: &str| asked(query).await.paging().unwrap().cut(vec![1, 2, 3, 4, 5]);
        let info =
            |count, page, per_page, total_pages| ResultInfo { count, page, per_page, total_count: 5, total_pages };
        assert_eq!(cut("").await, (vec![1, 2, 3, 4, 5], info(5, 1, 5, 1)));
        assert_eq!(cut("page=2").await, (vec![], info(0, 2, 5, 1)));
        assert_eq!(cut("per_page=2").await, (vec![1, 2], info(2, 1, 2, 3)));
        assert_eq!(cut("per_page=2&page=3").await, (vec![5], info(1, 3, 2, 3)));
        assert_eq!(cut("per_page=2&page=4").await, (vec![], info(0, 4, 2, 3)));
        assert_eq!(cut("per_page=1000000000&page=1000000000").await.0, Vec::<i32>::new());
        let none = asked("").await.paging().unwrap().cut(Vec::<i32>::new());
        assert_eq!(none.1, ResultInfo { count: 0, page: 1, per_page: 1, total_count: 0, total_pages: 0 });
    }

    #[tokio::test]
    async fn refuses_what_is_no_page_and_what_is_given_twice() {
        for query in ["page=0", "page=-1", "per_page=x", "per_page=0", "page=1&page=2", "page=1.5", "page=9999999999"] {
            assert_eq!(asked(query).await.paging().unwrap_err().status(), 400, "{query}");
        }
        assert!(asked("name=&page=").await.one("name").unwrap().is_none());
        assert!(asked("match=some").await.word("match", &["any", "all"]).is_err());
    }

    #[test]
    fn names_are_compared_as_the_operator_says() {
        let takes = |filter: &str, name: &str| NameFilter::read(filter).takes(name);
        assert!(takes("Pay.example", "pay.Example") && !takes("pay", "pay.example"));
        assert!(takes("contains:AY.", "pay.example") && takes("starts_with:pay", "pay.example"));
        assert!(takes("ends_with:.example", "pay.example") && takes("not_equal:x", "pay.example"));
        assert!(!takes("contains_case_sensitive:AY", "pay") && takes("contains_case_sensitive:ay", "pay"));
        assert!(takes("equal:pay", "pay") && takes("other:pay", "other:pay"));
    }
}
