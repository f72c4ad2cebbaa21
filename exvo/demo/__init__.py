"""The page in the browser that listens: clips of a visitor in, emotions with and without enrolment out."""
