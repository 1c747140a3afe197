//! The one name of PyO3 that the protocols use, so that they run without Python.

/// No application of the tests fails.
pub type PyResult<T> = Result<T, std::convert::Infallible>;
