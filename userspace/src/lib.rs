//! The Steerage load balancer.
