// A service of every type that Thrift has: method names, argument types and field numbers as in the service
// that Apache's own language libraries are tested against, so that their clients can call it.

namespace py services.gen.cross

enum Number {
  ONE = 1
  TWO = 2
  THREE = 3
  FIVE = 5
  SIX = 6
  EIGHT = 8
}

typedef i64 UserId

struct Things {
  1: string text
  4: i8 small
  9: i32 middle
  11: i64 large
}

struct Nest {
  1: i8 small
  2: Things things
  3: i32 middle
}

struct Insanity {
  1: map<Number, UserId> users
  2: list<Things> things
}

exception Failure {
  1: i32 errorCode
  2: string message
}

exception OtherFailure {
  1: i32 errorCode
  2: Things things
}

service Cross {
  void testVoid()
  string testString(1: string thing)
  bool testBool(1: bool thing)
  i8 testByte(1: i8 thing)
  i32 testI32(1: i32 thing)
  i64 testI64(1: i64 thing)
  double testDouble(1: double thing)
  binary testBinary(1: binary thing)
  Things testStruct(1: Things thing)
  Nest testNest(1: Nest thing)
  map<i32, i32> testMap(1: map<i32, i32> thing)
  map<string, string> testStringMap(1: map<string, string> thing)
  set<i32> testSet(1: set<i32> thing)
  list<i32> testList(1: list<i32> thing)
  Number testEnum(1: Number thing)
  UserId testTypedef(1: UserId thing)
  /** 4 -> {4: {1: 1, …, 4: 4}, -4: {-4: -4, …, -1: -1}}. */
  map<i32, map<i32, i32>> testMapMap(1: i32 hello)
  /** {1: {TWO: argument, THREE: argument}, 2: {SIX: an empty one}}. */
  map<UserId, map<Number, Insanity>> testInsanity(1: Insanity argument)
  /** The first three arguments as fields of one struct. */
  Things testMulti(1: i8 arg0, 2: i32 arg1, 3: i64 arg2, 4: map<i16, string> arg3, 5: Number arg4, 6: UserId arg5)
  /** "Xception": declared failure 1001; "TException": one that is not declared; else nothing. */
  void testException(1: string arg) throws (1: Failure failure)
  /** "Xception": 1001; "Xception2": 2002; else a struct whose text is the second argument. */
  Things testMultiException(1: string arg0, 2: string arg1) throws (1: Failure failure, 2: OtherFailure other)
  oneway void testOneway(1: i32 secondsToSleep)
}
