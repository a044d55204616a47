package example;

/** Another process has our key, at the address {@link #holder}. Stop; registering again would start a duel. */
final class Superseded extends Exception {
  final String holder;

  Superseded(String holder) {
    super("a newer registration has our key: " + holder);
    this.holder = holder;
  }
}
