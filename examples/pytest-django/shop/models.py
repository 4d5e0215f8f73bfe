from django.db import models, transaction


class Customer(models.Model):
    name = models.TextField(unique=True)

    def owed(self) -> int:
        """What the customer owes, in cents."""
        owed: int = self.orders.filter(paid=False).aggregate(cents=models.Sum("cents", default=0))["cents"]
        return owed


class Order(models.Model):
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="orders")
    cents = models.PositiveIntegerField()
    paid = models.BooleanField(default=False)

    @transaction.atomic
    def pay(self) -> bool:
        """Whether the order was open."""
        self.refresh_from_db(from_queryset=Order.objects.select_for_update())
        was_open, self.paid = not self.paid, True
        self.save()
        return was_open
