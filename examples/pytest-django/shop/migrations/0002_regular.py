from django.db import migrations


def add(apps, schema_editor):
    apps.get_model("shop", "Customer").objects.create(name="Ann")


def remove(apps, schema_editor):
    apps.get_model("shop", "Customer").objects.filter(name="Ann").delete()


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_customers_and_orders")]
    operations = [migrations.RunPython(add, remove)]
