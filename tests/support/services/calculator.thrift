// The service of the wire tests: each method shows one thing that a server must carry.

namespace py services.gen.calculator

struct Pair {
  1: required i64 left
  2: required i64 right
}

/** Refers to itself, so it can be nested as deep as anybody likes. */
struct Tree {
  1: required i64 value
  2: optional list<Tree> branches
  3: optional Tree tail
  4: optional map<string, Tree> named
  5: optional binary content
}

/** Every place in which a large binary may hide. */
struct Parcel {
  1: optional string label
  2: optional binary content
  3: optional list<binary> pieces
  4: optional map<string, binary> named
  5: optional list<Tree> trees
  6: optional map<i32, binary> numbered
  7: optional set<binary> distinct
  8: optional i32 count
  9: optional list<list<binary>> nested
  300: optional binary late
}

exception DivisionByZero {
  1: string message
  2: i64 dividend
}

/** What the refusal hook of the tests answers. */
exception Busy {
  1: string reason
}

service Calculator {
  i64 add(1: i64 left, 2: i64 right)
  /** Its argument has required fields. */
  i64 total(1: Pair pair) throws (1: Busy busy)
  i64 divide(1: i64 dividend, 2: i64 divisor) throws (1: DivisionByZero zero)
  binary echo(1: binary content)
  Tree mirror(1: Tree tree)
  Parcel forward(1: Parcel parcel)
  /** An answer of that many bytes. */
  binary blob(1: i32 size)
  /** Raises something that no client should be able to break a server with. */
  void fail(1: string how)
  /** Answers after that many milliseconds. */
  i32 wait(1: i32 ms)
  /** Nobody waits for it. */
  oneway void remember(1: string text)
  list<string> remembered()
  /** The process that answers. */
  i64 process()
}

service Greeter {
  string greet(1: string name)
}
